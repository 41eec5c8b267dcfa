package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"kemi"
	"kemi/provisioning/autoscale"
)

// Options are what a Driver works with. Dir, Log and Now are needed.
type Options struct {
	// Dir holds the logs of instances and what is known of those that run.
	Dir string
	// LeaveRunning makes Close leave the instances, for the next server to adopt.
	LeaveRunning bool
	Log          *slog.Logger
	Now          func() time.Time
}

// Driver keeps pools of processes. It is an autoscale.Driver.
type Driver struct {
	o    Options
	id   string // of Dir: the mark of what belongs to it
	boot string

	ctx    context.Context //nolint:containedctx // the life of the instances' goroutines
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows and the fields of slots
	pools  map[poolKey]*pool
	closed bool
}

type poolKey struct{ project, group string }

type pool struct {
	d     *Driver
	key   poolKey
	scale sync.Mutex    // one Scale at a time
	turn  chan struct{} // who holds its token replaces its process

	config *Config // nil: nobody has said yet
	digest string
	slots  []*slot // oldest first
}

var (
	_ autoscale.Driver     = (*Driver)(nil)
	_ autoscale.Checker    = (*Driver)(nil)
	_ autoscale.Privileged = (*Driver)(nil)
	_ autoscale.Redactor   = (*Driver)(nil)
	_ autoscale.Keeper     = (*Driver)(nil)
)

// New adopts the instances that an earlier server left running and ends what they left behind.
func New(o Options) (*Driver, error) {
	d := &Driver{o: o, pools: map[poolKey]*pool{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for _, sub := range []string{"", "logs", "run"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, sub), 0o700); err != nil {
			return nil, kemi.Errorf(kemi.ErrUnavailable, "folder of local pools: %w", err)
		}
	}
	var err error
	if d.id, err = identify(filepath.Join(o.Dir, "id")); err != nil {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "identity of local pools: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "local pools need /proc: %w", err)
	}
	d.boot = strings.TrimSpace(string(boot))
	if err := d.adopt(); err != nil {
		d.cancel()
		return nil, fmt.Errorf("adopt instances: %w", err)
	}
	d.wg.Go(d.keepLogsSmall)
	return d, nil
}

// identify reads the random name of the folder, or gives it one.
func identify(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) >= 16 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := rand.Text()
	return id, writeFile(path, []byte(id+"\n"))
}

// writeFile replaces a file as a whole.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Close stops all instances, each as its configuration says and all at once, and returns when they are gone; or it leaves them, as
// Options say.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.wg.Wait()
	return nil
}

func (d *Driver) pool(k poolKey) *pool {
	p := d.pools[k]
	if p == nil {
		p = &pool{d: d, key: k, turn: make(chan struct{}, 1)}
		d.pools[k] = p
	}
	return p
}

// Instances is as autoscale.Driver has it.
func (d *Driver) Instances(_ context.Context, g autoscale.Group) ([]autoscale.Instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pools[poolKey{g.Project, g.Name}]
	if p == nil {
		return nil, nil
	}
	out := make([]autoscale.Instance, 0, len(p.slots))
	for _, s := range p.slots {
		out = append(out, s.Instance)
	}
	return out, nil
}

// Scale is as autoscale.Driver has it. It returns when new instances have been started and surplus ones, the newest first, have been told to stop.
// An instance that does not start is tried again after a while; the error is that of the first try.
func (d *Driver) Scale(_ context.Context, g autoscale.Group, n int) error {
	config, err := parse(g.Config)
	if err != nil {
		return err
	}
	if n < 0 {
		return kemi.Errorf(kemi.ErrInvalid, "size %d is negative", n)
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return kemi.Errorf(kemi.ErrUnavailable, "local pools are stopping")
	}
	p := d.pool(poolKey{g.Project, g.Name})
	d.wg.Add(1) // Close waits for what is started here, and ends it
	d.mu.Unlock()
	defer d.wg.Done()
	p.scale.Lock()
	defer p.scale.Unlock()

	d.mu.Lock()
	p.config, p.digest = &config, config.digest()
	live := make([]*slot, 0, len(p.slots))
	for _, s := range p.slots {
		if s.State != autoscale.Stopping {
			live = append(live, s)
		}
	}
	for len(live) > n {
		live[len(live)-1].stopLocked()
		live = live[:len(live)-1]
	}
	for _, s := range live {
		if s.digest != p.digest {
			s.renewLocked()
		}
	}
	if n == 0 && len(p.slots) == 0 {
		delete(d.pools, p.key)
	}
	d.mu.Unlock()

	var errs []error
	for range n - len(live) {
		if err := d.add(p); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%d of %d new instances did not start: %w", len(errs), n-len(live), errs[0])
	}
	return nil
}

// Keep is as autoscale.Keeper has it.
func (d *Driver) Keep(_ context.Context, groups []autoscale.Group) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, p := range d.pools {
		if slices.ContainsFunc(groups, func(g autoscale.Group) bool { return g.Project == k.project && g.Name == k.group }) {
			continue
		}
		for _, s := range p.slots {
			d.o.Log.Info("stopping an instance that belongs to no group", "project", k.project, "group", k.group, "instance", s.ID, "pid", s.PID)
			s.stopLocked()
		}
	}
	return nil
}
