package journal

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"kemi"

	"kemi/pipeline/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is where a Journal logs to.
type log struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.String()
}

type follower struct {
	t      *testing.T
	out    chan []Entry
	log    log
	cancel context.CancelFunc
	done   chan error
	held   []Entry
}

func follow(t *testing.T, o Options) *follower {
	f := &follower{t: t, out: make(chan []Entry), done: make(chan error, 1)}
	o.Out, o.Log, o.Now, o.Backoff = f.out, slog.New(slog.NewTextHandler(&f.log, nil)), time.Now, 5*time.Millisecond
	o.Labels = kemi.LabelsOf("host", "h1")
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() { f.done <- New(o).Run(ctx) }()
	t.Cleanup(f.stop)
	return f
}

func (f *follower) stop() {
	if f.cancel == nil {
		return
	}
	f.cancel()
	f.cancel = nil
	if err := <-f.done; err != nil {
		f.t.Error(err)
	}
}

// next is the next n entries.
func (f *follower) next(n int) []Entry {
	f.t.Helper()
	for len(f.held) < n {
		select {
		case es := <-f.out:
			f.held = append(f.held, es...)
		case <-time.After(10 * time.Second):
			f.t.Fatalf("%d entries, want %d; log: %s", len(f.held), n, f.log.text())
		}
	}
	out := f.held[:n:n]
	f.held = f.held[n:]
	return out
}

// realJournal is the journal in testdata, as a command that reads it.
func realJournal(t *testing.T) []string {
	if _, err := exec.LookPath("journalctl"); err != nil {
		storetest.Absent(t, "there is no journalctl")
	}
	packed, err := os.ReadFile("testdata/sample.journal.zst")
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b, err := d.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sample.journal")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"journalctl", "--file", path}
}

// TestRealJournal reads what journald wrote with the journalctl of this machine.
func TestRealJournal(t *testing.T) {
	command := realJournal(t)
	f := follow(t, Options{Command: command, Since: 100 * 365 * 24 * time.Hour})
	es := f.next(8) // "started", the size of the journal, five that have a message, "stopped"
	f.stop()
	if es[0].Record.Body != "Journal started" || es[0].Record.Stream.Get("service") != "systemd-journald" || es[7].Record.Body != "Journal stopped" {
		t.Errorf("first %+v, last %+v", es[0].Record, es[7].Record)
	}
	for i, want := range []struct {
		body, service string
		severity      kemi.Severity
	}{
		{"connection refused", "pay", kemi.SeverityError},
		{"bytes \xff\xfe\nand a second line", "pay", kemi.SeverityInfo},
		{"two\nmessages", "pay", kemi.SeverityDebug},
		{strings.Repeat("x", 70_000), "long", kemi.SeverityFatal},
		{"결제 실패", "pay", 0},
	} {
		r := es[2+i].Record
		if r.Body != want.body || r.Stream.Get("service") != want.service || r.Severity != want.severity || r.Stream.Get("host") != "h1" {
			t.Errorf("entry %d: %.80q %s %v, want %.80q %s %v", i, r.Body, r.Stream, r.Severity, want.body, want.service, want.severity)
		}
		if i > 0 && r.At <= es[1+i].Record.At {
			t.Errorf("entry %d: times do not ascend", i)
		}
	}
	if c := es[6].Record.Attrs.Get("container"); c != "web" {
		t.Errorf("attributes %v", es[6].Record.Attrs)
	}
	// From a position on: only what came after it.
	f = follow(t, Options{Command: command, Position: es[4].Position})
	if got := f.next(3); got[0].Record.Body != es[5].Record.Body || got[2].Record.Body != "Journal stopped" {
		t.Errorf("after the third: %.100v", got)
	}
	f.stop()
	// A cursor that no journal can know: it goes on by time.
	p := es[4].Position
	p.Cursor = "nonsense"
	f = follow(t, Options{Command: command, Position: p})
	if got := f.next(3); got[0].Record.Body != es[5].Record.Body || got[2].Record.Body != "Journal stopped" {
		t.Errorf("after the third by time: %.100v", got)
	}
}

// fake puts a program named journalctl before all others.
func fake(t *testing.T, script string) (dir string) {
	dir = t.TempDir()
	if err := os.WriteFile(dir+"/journalctl", []byte("#!/bin/sh\ncd "+dir+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

func entry(i int, message string) string {
	return fmt.Sprintf(`{"__CURSOR":"c%d","__REALTIME_TIMESTAMP":"%d","MESSAGE":%s,"_SYSTEMD_UNIT":"pay.service"}`, i, 1_800_000_000_000_000+i, message)
}

// TestEndsAndGoesOn: journalctl dies again and again; each entry comes once.
func TestEndsAndGoesOn(t *testing.T) {
	dir := fake(t, `for a in "$@"; do last=$a; done
echo "$last" >> args
n=$(wc -l < args)
case $last in
--since=*) i=0 ;;
*) i=${last#--after-cursor=c} ;;
esac
for k in 1 2 3; do
  i=$((i+1))
  printf '{"__CURSOR":"c%d","__REALTIME_TIMESTAMP":"%d","MESSAGE":"m%d","PRIORITY":"4"}\n' $i $((1800000000000000+i)) $i
done
echo "the $n. time" >&2
kill -9 $$
`)
	f := follow(t, Options{Since: time.Hour})
	for i, e := range f.next(9) {
		if e.Record.Body != fmt.Sprintf("m%d", i+1) || e.Position.Cursor != fmt.Sprintf("c%d", i+1) {
			t.Fatalf("entry %d: %+v", i, e)
		}
	}
	f.stop()
	args, err := os.ReadFile(dir + "/args")
	if err != nil || !strings.Contains(string(args), "--after-cursor=c3\n--after-cursor=c6\n") {
		t.Errorf("run with %s (%v)", args, err)
	}
	if !strings.Contains(f.log.text(), "the 1. time") {
		t.Errorf("log: %s", f.log.text())
	}
}

// TestBadEntries: what cannot be read is left out, and the rest comes.
func TestBadEntries(t *testing.T) {
	dir := fake(t, "cat entries\nexec sleep 600\n")
	lines := []string{
		"not JSON", `{"__CURSOR":"x"}`, `{"__CURSOR":"","__REALTIME_TIMESTAMP":"5","MESSAGE":"a"}`, `{"__CURSOR":"x","__REALTIME_TIMESTAMP":"-5","MESSAGE":"a"}`, "",
		entry(1, `"good"`), entry(2, `null`), entry(3, `[300,1]`), entry(4, `{"a":1}`), entry(5, `[]`), entry(6, `[104,105]`),
		entry(7, `"`+strings.Repeat("y", 200_000)+`"`), entry(8, `"`+strings.Repeat("z", maxPrinted)+`"`), entry(9, `["a",[98],"c"]`),
	}
	if err := os.WriteFile(dir+"/entries", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := follow(t, Options{})
	es := f.next(4)
	for i, want := range []string{"good", "hi", strings.Repeat("y", 200_000), "a\nb\nc"} {
		if es[i].Record.Body != want || es[i].Record.Stream.Get("service") != "pay" {
			t.Errorf("entry %d: %.80q of %s, want %.80q", i, es[i].Record.Body, es[i].Record.Stream, want)
		}
	}
	began := time.Now()
	f.stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s to stop", d)
	}
}

func TestLongMessage(t *testing.T) {
	dir := fake(t, "cat entries\nexec sleep 600\n")
	long := strings.Repeat("다", maxMessage/2)
	if err := os.WriteFile(dir+"/entries", []byte(entry(1, `"a"`)+"\n"+entry(2, `"`+long+`"`)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := follow(t, Options{})
	es := f.next(3)
	if es[1].Record.Body+es[2].Record.Body != long || len(es[1].Record.Body) > maxMessage || es[1].Record.Attrs.Get("line.part") != "1" || es[2].Record.Attrs.Get("line.last") != "true" {
		t.Errorf("parts of %d and %d bytes, %v %v", len(es[1].Record.Body), len(es[2].Record.Body), es[1].Record.Attrs, es[2].Record.Attrs)
	}
	if es[1].Position.Cursor != "c1" || es[2].Position.Cursor != "c2" {
		t.Errorf("positions %v %v", es[1].Position, es[2].Position)
	}
}

func TestNoJournalctl(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	f := follow(t, Options{})
	if err := <-f.done; err != nil {
		t.Error(err)
	}
	f.done <- nil
	if !strings.Contains(f.log.text(), "journal is not followed") {
		t.Errorf("log: %s", f.log.text())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(entry(1, `"a"`)))
	f.Add([]byte(entry(1, `[1,2,255]`)))
	f.Add([]byte(entry(1, `["a",[98],null]`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err == nil && (p.position.Cursor == "" || p.record.At <= 0) {
			t.Fatalf("%q gives %+v", b, p)
		}
	})
}
