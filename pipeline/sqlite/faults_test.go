package sqlite

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"

	"kemi/pipeline/storetest"
)

// The child of TestKill writes until it is killed, and tells on stdout what was acknowledged.
const killDir = "KEMI_TEST_SQLITE_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func writeUntilKilled(dir string) error {
	d, err := Open(filepath.Join(dir, "control.db"))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	run := strconv.Itoa(os.Getpid())
	fail := make(chan error, 3)
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%s-%d-%d", run, w, i)
				spec := json.RawMessage(strconv.Quote(strings.Repeat(name, 1+i%300)))
				rs, err := d.PutAll(context.Background(), []store.Resource{
					{Project: "p", Kind: "left", Name: name, Spec: spec}, {Project: "p", Kind: "right", Name: name, Spec: spec},
					{Project: "p", Kind: "last", Name: strconv.Itoa(w), Spec: json.RawMessage(strconv.Quote(name)), Revision: store.AnyRevision},
				})
				if err != nil {
					fail <- err
					return
				}
				mu.Lock()
				fmt.Println(name, rs[0].Revision)
				mu.Unlock()
			}
		})
	}
	return <-fail
}

// TestKill kills a writing process at random moments: what it acknowledged is there, and no transaction is there by half.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]int64{}
	kills := 12
	if testing.Short() {
		kills = 3
	}
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		killAfter := 1 + rand.IntN(60)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			name, rev, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				continue // the kill cut the line
			}
			if acked[name], err = strconv.ParseInt(rev, 10, 64); err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			if n == killAfter {
				go func() {
					time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // any moment of a transaction
					_ = cmd.Process.Kill()
				}()
			}
		}
		_ = cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("child: %s", &stderr)
		}
	}
	d, err := Open(filepath.Join(dir, "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, rev := range acked {
		// The last line of a child may have been cut inside its revision; a shorter number is no other revision's claim.
		r, err := d.Get(t.Context(), "p", "left", name)
		if err != nil || !strings.HasPrefix(strconv.FormatInt(r.Revision, 10), strconv.FormatInt(rev, 10)) {
			t.Fatalf("%s was acknowledged at revision %d; stored is %d, %v", name, rev, r.Revision, err)
		}
	}
	left, err := d.List(t.Context(), "p", "left", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	right, err := d.List(t.Context(), "p", "right", store.ListOptions{})
	if err != nil || len(left) != len(right) {
		t.Fatalf("%d left, %d right, %v", len(left), len(right), err)
	}
	seen := map[int64]bool{}
	for i := range left {
		if left[i].Name != right[i].Name || string(left[i].Spec) != string(right[i].Spec) || seen[left[i].Revision] {
			t.Fatalf("half a transaction or a revision twice: %s %s", left[i].Name, right[i].Name)
		}
		seen[left[i].Revision] = true
	}
	var check string
	if err := d.read.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
		t.Fatalf("integrity: %s, %v", check, err)
	}
	t.Logf("%d acknowledged, %d stored after %d kills", len(acked), len(left), kills)
}

func TestForeignFiles(t *testing.T) {
	foreign := func(name string, statements ...string) string {
		path := filepath.Join(t.TempDir(), name)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, s := range statements {
			if _, err := db.Exec(s); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		text:                                   "not a database",
		foreign("other", "CREATE TABLE x (y)"): "another program",
		foreign("marked", "PRAGMA application_id = 7"):                                                         "another program",
		foreign("newer", fmt.Sprintf("PRAGMA application_id = %d", applicationID), "PRAGMA user_version = 99"): "start a newer one",
	} {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Open(path)
		if err == nil {
			d.Close()
		}
		if !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("%s was changed (%v)", path, err)
		}
	}
}

func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if _, err := d.Put(t.Context(), store.Resource{Project: "p", Kind: "k", Name: strconv.Itoa(i), Spec: json.RawMessage(strconv.Quote(strings.Repeat("x", 500)))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := int64(3); page < 20; page++ {
		if _, err := f.WriteAt([]byte(strings.Repeat("\xfe", 4096)), page*4096); err != nil {
			t.Fatal(err)
		}
	}
	d, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err = d.List(t.Context(), "p", "k", store.ListOptions{}); err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), path) {
		t.Fatalf("a damaged file reads as %v", err)
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "control.db")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
}

// mount makes a small file system of its own for a test.
func mount(t *testing.T, options string) string {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, options); err != nil {
		storetest.Absent(t, "needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestDiskFull(t *testing.T) {
	dir := mount(t, "size=2m")
	d, err := Open(filepath.Join(dir, "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	spec := json.RawMessage(strconv.Quote(strings.Repeat("x", 100<<10)))
	stored := 0
	for ; stored < 100; stored++ {
		if _, err = d.Put(t.Context(), store.Resource{Project: "p", Kind: "k", Name: strconv.Itoa(stored), Spec: spec}); err != nil {
			break
		}
	}
	if !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "disk") {
		t.Fatalf("full disk after %d resources: %v", stored, err)
	}
	if rs, err := d.List(t.Context(), "p", "k", store.ListOptions{}); err != nil || len(rs) != stored {
		t.Fatalf("%d readable of %d on a full disk: %v", len(rs), stored, err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Put(t.Context(), store.Resource{Project: "p", Kind: "k", Name: "after", Spec: spec}); err != nil {
		t.Fatalf("with space again: %v", err)
	}
}

func TestReadOnlyFolder(t *testing.T) {
	dir := mount(t, "size=8m")
	if err := os.Mkdir(filepath.Join(dir, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	old, err := Open(filepath.Join(dir, "old", "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "old", "control.db"), filepath.Join(dir, "new.db"), filepath.Join(dir, "new", "control.db")} {
		d, err := Open(path)
		if err == nil {
			d.Close()
		}
		if !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "read-only file system") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestWriterOutsideHolds: another process in a transaction makes us wait, and then say so, not fail oddly.
func TestWriterOutsideHolds(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for SQLite's busy timeout of 5 s")
	}
	t.Parallel()
	path := filepath.Join(t.TempDir(), "control.db")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	other, err := sql.Open("sqlite", path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	r := store.Resource{Project: "p", Kind: "k", Name: "a"}
	if _, err := d.Put(t.Context(), r); !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("while another process writes: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Put(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkPut(b *testing.B) {
	d, err := Open(filepath.Join(b.TempDir(), "control.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	spec := json.RawMessage(strconv.Quote(strings.Repeat("x", 500)))
	for i := 0; b.Loop(); i++ {
		if _, err := d.Put(b.Context(), store.Resource{Project: "p", Kind: "k", Name: strconv.Itoa(i % 1000), Spec: spec, Revision: store.AnyRevision}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	d, err := Open(filepath.Join(b.TempDir(), "control.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Put(b.Context(), store.Resource{Project: "p", Kind: "k", Name: "a", Spec: json.RawMessage(`{}`)}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.Get(b.Context(), "p", "k", "a"); err != nil {
			b.Fatal(err)
		}
	}
}
