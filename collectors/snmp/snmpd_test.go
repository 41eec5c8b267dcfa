package snmp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/storetest"
	"kemi/pipeline/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// snmpd runs Debian's SNMP daemon on an address of this machine until the test ends.
func snmpd(t testing.TB, address, config string) {
	t.Helper()
	program, err := exec.LookPath("snmpd")
	if err != nil {
		program = "/usr/sbin/snmpd"
	}
	if _, err := os.Stat(program); err != nil {
		storetest.Absent(t, "snmpd is not installed (package snmpd)")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "snmpd.conf")
	config = "[snmp] persistentDir " + filepath.Join(dir, "state") + "\n[snmpd]\n" + config
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-f", "-Lf", filepath.Join(dir, "log"), "-C", "-c", file, "udp:"+address)
	cmd.Env = append(os.Environ(), "MIBS=", "SNMP_PERSISTENT_DIR="+filepath.Join(dir, "state"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	stop := func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(20 * time.Second); ; {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		if strings.Contains(string(log), "NET-SNMP version") {
			return
		}
		select {
		case <-ended:
			t.Fatalf("snmpd ended:\n%s", log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("snmpd has not started:\n%s", log)
		}
	}
}

// freePort is a UDP port that nobody uses now.
func freePort(t testing.TB, host string) string {
	t.Helper()
	c, err := net.ListenPacket("udp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	return port
}

func file(t testing.TB, secret string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const (
	community  = "qZ7-community"
	authPhrase = "qZ7-authphrase"
	privPhrase = "qZ7-privphrase"
)

// daemon is a configuration with what the tests need: v2c, three users of v3, an old view without counters of 64 bits, and a table of its own.
const daemon = `
sysName switch-1
sysLocation Seoul
rocommunity ` + community + ` 127.0.0.0/8
view old included .1
view old excluded .1.3.6.1.2.1.31
rocommunity old-community 127.0.0.0/8 -V old
createUser sha SHA "` + authPhrase + `" AES "` + privPhrase + `"
createUser sha256 SHA-256 "` + authPhrase + `" AES "` + privPhrase + `"
createUser noenc SHA-256 "` + authPhrase + `"
rouser sha priv
rouser sha256 priv
rouser noenc auth
override .1.3.6.1.4.1.8072.9999.7.1.2.1.10 integer -5
override .1.3.6.1.4.1.8072.9999.7.1.2.1.11 integer 6
override .1.3.6.1.4.1.8072.9999.7.1.3.1.10 octet_str "3.25"
override .1.3.6.1.4.1.8072.9999.7.1.4.1.10 octet_str "blue"
override .1.3.6.1.4.1.8072.9999.7.1.4.1.11 octet_str "blue"
`

func config(t testing.TB) Config {
	t.Helper()
	c := DefaultConfig()
	c.Timeout, c.Retries, c.PollTimeout = 500*time.Millisecond, 1, 10*time.Second
	auth, priv := file(t, authPhrase), file(t, privPhrase)
	c.Credentials = map[string]Credential{
		"default": {Version: "2c", CommunityFile: file(t, community)},
		"old":     {Version: "2c", CommunityFile: file(t, "old-community")},
		"wrong":   {Version: "2c", CommunityFile: file(t, "wrong")},
		"sha":     {Version: "3", User: "sha", AuthProtocol: "SHA", AuthFile: auth, PrivProtocol: "AES", PrivFile: priv},
		"sha256":  {Version: "3", User: "sha256", AuthProtocol: "SHA256", AuthFile: auth, PrivProtocol: "AES", PrivFile: priv},
		"noenc":   {Version: "3", User: "noenc", AuthProtocol: "SHA256", AuthFile: auth},
		"wrong3":  {Version: "3", User: "sha256", AuthProtocol: "SHA256", AuthFile: file(t, "not the phrase"), PrivProtocol: "AES", PrivFile: priv},
		"far":     {Version: "2c", CommunityFile: file(t, community), Networks: []string{"192.0.2.0/24"}},
		"other":   {Version: "2c", CommunityFile: file(t, community), Projects: []string{"other"}},
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// ims is an inventory that a test changes.
type ims struct {
	mu       sync.Mutex
	hosts    []Host
	profiles map[string]string
	found    map[string]json.RawMessage
}

func (m *ims) Hosts() []Host {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.hosts)
}

func (m *ims) Profile(project, name string) (json.RawMessage, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.profiles[project+"/"+name]
	return json.RawMessage(s), ok
}

func (m *ims) Discovered(_ context.Context, id kemi.Identity, name string, facts json.RawMessage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.found == nil {
		m.found = map[string]json.RawMessage{}
	}
	if !id.Can(kemi.IMSWrite) {
		return kemi.Errorf(kemi.ErrDenied, "no")
	}
	m.found[id.Project+"/"+name] = facts
	return nil
}

// written is the newest value of each series that was written, by its labels.
type written struct {
	mu     sync.Mutex
	table  *codec.Table
	values map[string]float64
	types  map[string]string
}

func newWritten() *written {
	return &written{table: codec.NewTable(nil, time.Now), values: map[string]float64{}, types: map[string]string{}}
}

func (w *written) write(_ context.Context, id kemi.Identity, body []byte) error {
	in, err := w.table.Receive(id.Project, true, body, codec.Limits{
		MaxDecodedBytes: 64 << 20, MaxLabels: 64, MaxLabelNameBytes: 1 << 10, MaxLabelValueBytes: 16 << 10, Newest: math.MaxInt64,
	})
	if err != nil {
		return err
	}
	if in.Refused.Any() {
		return in.Refused.Errors[0]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range in.Batch.Series {
		from, to := in.Batch.Span(i)
		for j := from; j < to; j++ {
			w.values[in.Batch.Labels(i).String()] = in.Batch.Values[j]
		}
	}
	if c := in.Batch.Complex; c != nil {
		for _, m := range c.Metadata {
			w.types[m.Metric] = m.Type
		}
	}
	return nil
}

func (w *written) get(pairs ...string) (float64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := w.values[kemi.LabelsOf(pairs...).String()]
	return v, ok
}

func (w *written) all() map[string]float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.values)
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 40 s: %s", what)
		}
	}
}

// running is SNMP on a log of record of its own.
type running struct {
	t      testing.TB
	dir    string
	c      Config
	ims    *ims
	out    *written
	stop   func()
	log    *strings.Builder
	logMu  *sync.Mutex
	bus    bus.Bus
	failed error
}

// syncWriter makes a builder a log.
type syncWriter struct {
	mu *sync.Mutex
	b  *strings.Builder
}

func (w syncWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func newRunning(t testing.TB, c Config, m *ims) *running {
	return &running{t: t, dir: t.TempDir(), c: c, ims: m, out: newWritten(), log: &strings.Builder{}, logMu: &sync.Mutex{}}
}

func (r *running) start() {
	r.t.Helper()
	busConfig := wal.DefaultConfig()
	busConfig.Dir = r.dir
	b, err := wal.Open(busConfig, wal.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(syncWriter{r.logMu, r.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := New(Options{Config: r.c, Inventory: r.ims, Bus: b, Write: r.out.write, Log: log, Registerer: prometheus.NewRegistry(), Now: time.Now, tick: 20 * time.Millisecond})
	if err != nil {
		r.t.Fatal(err)
	}
	r.bus = b
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.failed = s.Run(ctx)
	}()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			<-ended
			if err := b.Close(); err != nil || r.failed != nil {
				r.t.Errorf("stop: %v, %v", r.failed, err)
			}
		})
	}
	r.t.Cleanup(r.stop)
}

func (r *running) logged() string {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.String()
}

func list(values map[string]float64) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s %v\n", k, values[k])
	}
	return b.String()
}
