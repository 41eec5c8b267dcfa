package wal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kemi"
	"kemi/pipeline/bus"
)

// After a sync that failed nothing is certain but what was synced before: no more writes until the log is opened again.
func TestSyncFails(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := realDisk()
	w := mustOpenOn(t, cfg, d)
	publish(t, w, "before")
	r, _ := w.Subscribe(t.Context(), "a", "", nil)
	var broken atomic.Bool
	d.sync = func(f *os.File) error {
		if broken.Load() {
			return unix.EIO
		}
		return syncFile(f)
	}
	broken.Store(true)
	if err := w.Publish(t.Context(), "a", []bus.Record{{Value: []byte("lost")}}); !errors.Is(err, kemi.ErrUnavailable) || !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	broken.Store(false)
	for range 3 { // the disk says that it is well again; who would believe it
		if err := w.Publish(t.Context(), "a", []bus.Record{{Value: []byte("late")}}); !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "until restart") {
			t.Fatal(err)
		}
	}
	wantValues(t, w, "before")
	if b, err := r.Next(t.Context()); err != nil || len(b.Records) != 1 {
		t.Fatalf("readers go on: %v, %v", b, err)
	}
	if err := w.Close(); !errors.Is(err, unix.EIO) {
		t.Fatalf("close: %v", err)
	}
	w = mustOpen(t, cfg)
	wantValues(t, w, "before")
	publish(t, w, "after")
	wantValues(t, w, "before", "after")
}

// A write that fails in the middle leaves nothing, whichever of several publishes it was in.
func TestWriteFails(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 1 << 20
	d := realDisk()
	w := mustOpenOn(t, cfg, d)
	var room atomic.Int64
	room.Store(1 << 40)
	d.writeAt = func(f *os.File, b []byte, pos int64) (int, error) {
		if left := room.Add(-int64(len(b))); left < 0 {
			n, err := f.WriteAt(b[:max(0, int64(len(b))+left)], pos)
			return n, errors.Join(err, unix.ENOSPC)
		}
		return f.WriteAt(b, pos)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	acked := map[string]bool{}
	var mu sync.Mutex
	failed := 0
	for round := range 30 {
		room.Store(rng.Int64N(500_000))
		var wg sync.WaitGroup
		for i := range 6 {
			size := rng.IntN(80_000)
			wg.Go(func() {
				v := fmt.Sprintf("%d.%d.%s", round, i, strings.Repeat("x", size))
				err := w.Publish(t.Context(), "a", []bus.Record{{Value: []byte(v)}})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					acked[v] = true
				} else if failed++; !errors.Is(err, kemi.ErrUnavailable) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	// Also when all of it is in the file before the error comes.
	d.writeAt = func(f *os.File, b []byte, pos int64) (int, error) {
		n, err := f.WriteAt(b, pos)
		return n, errors.Join(err, unix.EIO)
	}
	if err := w.Publish(t.Context(), "a", []bus.Record{{Value: []byte("whole, and refused")}}); !errors.Is(err, kemi.ErrUnavailable) || !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	d.writeAt = (*os.File).WriteAt
	if failed == 0 || len(acked) == 0 {
		t.Fatalf("%d failed, %d were acknowledged", failed, len(acked))
	}
	for range 2 {
		got := readAll(t, w)
		for i, r := range got {
			if !acked[string(r.Value)] || r.Offset != int64(i) {
				t.Fatalf("offset %d at %d: %.20q was not acknowledged", r.Offset, i, r.Value)
			}
		}
		if len(got) != len(acked) {
			t.Fatalf("%d records, %d acknowledged", len(got), len(acked))
		}
		_ = w.Close()
		w = mustOpen(t, cfg)
	}
}

// powerDisk remembers what would be left after a power cut: of files what was synced, of folders the names that were.
type powerDisk struct {
	mu     sync.Mutex
	synced map[uint64]syncedFile // by inode
	names  map[string]bool
}

// syncedFile is how much of a file was synced, and what it was called then.
type syncedFile struct {
	name string
	size int64
}

// sure is how much of a file is on disk for certain. A file may have the inode of one that is gone: segments are never renamed, so they tell by their name.
func (p *powerDisk) sure(path string, info os.FileInfo) int64 {
	s := p.synced[inode(info)]
	if strings.HasSuffix(path, logSuffix) && s.name != path {
		return 0
	}
	return s.size
}

func (p *powerDisk) disk() *disk {
	return &disk{
		writeAt: func(f *os.File, b []byte, pos int64) (int, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return f.WriteAt(b, pos)
		},
		sync: func(f *os.File) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			info, err := f.Stat()
			if err == nil {
				p.synced[inode(info)] = syncedFile{f.Name(), info.Size()}
			}
			return err
		},
		syncDir: func(dir string) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			entries, err := os.ReadDir(dir)
			for _, e := range entries {
				p.names[filepath.Join(dir, e.Name())] = true
			}
			return err
		},
	}
}

func inode(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// cut copies to a new folder what a power cut at this moment may leave.
func (p *powerDisk) cut(t *testing.T, from, to string, rng *rand.Rand) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var copyDir func(string, string)
	copyDir = func(from, to string) {
		if err := os.MkdirAll(to, 0o700); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(from)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
			if !p.names[src] && rng.IntN(2) == 0 {
				continue // its name was not on disk yet
			}
			if e.IsDir() {
				copyDir(src, dst)
				continue
			}
			info, err := os.Stat(src)
			var b []byte
			if err == nil {
				b, err = os.ReadFile(src)
			}
			if errors.Is(err, os.ErrNotExist) {
				continue // the writer renamed an index meanwhile
			}
			if err != nil {
				t.Fatal(err)
			}
			// Behind what was synced each sector may be there, or be zeros, and the length is anything.
			sure := min(p.sure(src, info), int64(len(b)))
			b = b[:sure+rng.Int64N(int64(len(b))-sure+1)]
			for i := sure; i < int64(len(b)); {
				end := min(int64(len(b)), (i/512+1)*512)
				if rng.IntN(3) == 0 {
					clear(b[i:end])
				}
				i = end
			}
			if err := os.WriteFile(dst, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	copyDir(from, to)
}

func TestPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	cfg := testConfig(t.TempDir())
	cfg.Topics = map[string]int{"a": 2}
	cfg.SegmentBytes = 32 << 10
	power := &powerDisk{synced: map[uint64]syncedFile{}, names: map[string]bool{}}
	// The folder itself was there before.
	power.names[cfg.Dir] = true
	w := mustOpenOn(t, cfg, power.disk())
	var mu sync.Mutex
	acked := map[string]bool{}
	var wg sync.WaitGroup
	tickets := make(chan struct{})
	for i := range 4 {
		local := rand.New(rand.NewPCG(seed, uint64(i+1)))
		wg.Go(func() {
			j := 0
			for range tickets {
				v := fmt.Sprintf("%d.%d.%s", i, j, strings.Repeat("x", local.IntN(3000)))
				if err := w.Publish(t.Context(), "a", []bus.Record{{Value: []byte(v)}}); err != nil {
					t.Error(err)
				}
				mu.Lock()
				acked[v] = true
				mu.Unlock()
				j++
			}
		})
	}
	committed := bus.Positions{}
	wg.Go(func() {
		r, err := w.Subscribe(t.Context(), "a", "g", nil)
		for err == nil {
			var b bus.Batch
			if b, err = r.Next(t.Context()); err == nil {
				if err = r.Commit(t.Context(), bus.Positions{b.Partition: b.Next()}); err == nil {
					mu.Lock()
					committed[b.Partition] = b.Next()
					mu.Unlock()
				}
			}
		}
		if err != io.EOF {
			t.Error(err)
		}
	})
	for range 60 {
		for range rng.IntN(30) {
			tickets <- struct{}{}
		}
		mu.Lock()
		want := make(map[string]bool, len(acked))
		for v := range acked {
			want[v] = true
		}
		wantCommitted := maps.Clone(committed)
		mu.Unlock()
		after := cfg
		after.Dir = filepath.Join(t.TempDir(), "after")
		power.cut(t, cfg.Dir, after.Dir, rng)
		left := mustOpen(t, after)
		records := readAll(t, left)
		for _, r := range records {
			delete(want, string(r.Value))
		}
		for v := range want {
			t.Fatalf("%.20q was acknowledged and is gone; %d records are left", v, len(records))
		}
		for p, n := range wantCommitted {
			if got := left.topics["a"].groups.get("g")[p]; got < n {
				t.Fatalf("partition %d: %d was committed, %d is kept", p, n, got)
			}
		}
		publish(t, left, "and it goes on")
		if err := left.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(tickets)
	w.topics["a"].closeReaders()
	wg.Wait()
}

// Readers tell damage, each time they are asked, and do not go on behind it.
func TestReadersTellDamage(t *testing.T) {
	cfg := testConfig(t.TempDir())
	w := mustOpen(t, cfg)
	for i := range 40 {
		publish(t, w, fmt.Sprintf("%d %s", i, strings.Repeat("x", 300)))
	}
	_ = w.Close()
	files := segmentFiles(t, w)
	flip(t, files[1], 600)
	w = mustOpen(t, cfg) // the indexes vouch for what they cover; it is looked at when it is read
	r, _ := w.Subscribe(t.Context(), "a", "", nil)
	n := 0
	for {
		b, err := r.Next(t.Context())
		n += len(b.Records)
		if err == nil && n < 40 {
			continue
		}
		var damage *CorruptError
		if err == io.EOF || !errors.As(err, &damage) || damage.Path != files[1] {
			t.Fatalf("after %d records: %v", n, err)
		}
		if damage.Offset < int64(n) {
			t.Fatalf("%d records were read, the damage is at %d", n, damage.Offset)
		}
		break
	}
	if _, err := r.Next(t.Context()); err == nil {
		t.Fatal("the second Next goes on behind the damage")
	}
	// Who has decided to live without them can go on behind them.
	_ = w.Close()
	base := w.topics["a"].partitions[0].segments[2].base
	w = mustOpen(t, cfg)
	r, _ = w.Subscribe(t.Context(), "a", "", bus.Positions{0: base})
	if b, err := r.Next(t.Context()); err != nil || b.Records[0].Offset != base {
		t.Fatal(err)
	}
	if err := os.Remove(files[3]); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := r.Next(t.Context()); err != nil {
			var damage *CorruptError
			if !errors.As(err, &damage) || damage.Path != files[3] {
				t.Fatalf("segment taken away: %v", err)
			}
			break
		}
	}
}

// flip changes one byte of a file.
func flip(t testing.TB, path string, pos int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], pos); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], pos); err != nil {
		t.Fatal(err)
	}
}
