package batch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/settled"
)

// Live is the store whose blocks are settled.
type Live interface {
	// Ready waits until it is open. Nothing else is asked before.
	Ready(ctx context.Context) error
	// Sources are what is due to be settled, and up to where samples that came in order are settled or due: newer ones are still to come, late ones aside.
	Sources() (due []Source, closed kemi.Millis)
	// Read yields the series of sources in order of project and labels, each once. What is yielded is valid until the next step only. A source
	// stays as it was when it was first read.
	Read(ctx context.Context, ids []string) iter.Seq2[*settled.Series, error]
	// Retire says that sources are settled. Those that are gone already are passed over.
	Retire(ids []string) error
}

// Options are what a Layer works with.
type Options struct {
	Retention  time.Duration // of what no rule of the Config fits; 0 = for ever
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time

	// Step is called between any two steps that a crash may come between, with what has just been done. It is for tests.
	Step func(string)
	// Rollups changes how blocks are written. It is for tests.
	Rollups func(*settled.Options)
}

// Layer is the batch layer: Open, then Attach, then Run or Settle.
type Layer struct {
	cfg   Config
	o     Options
	rules []rule
	m     *metrics
	live  Live

	runMu sync.Mutex // one Settle at a time

	mu       sync.Mutex // of what follows
	manifest manifest
	blocks   map[string]*settled.Block // those of the manifest
	deletes  []compiled                // the manifest's deletions
	closed   bool
}

// compiled is a Deletion that can be asked.
type compiled struct {
	Deletion
	match    func(kemi.Labels) bool
	matchers settled.Matchers // the same, for blocks
}

// Open reads the manifest and opens its blocks. What is not in it is left over from a crash, and is deleted.
func Open(cfg Config, o Options) (_ *Layer, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Rollups == nil {
		o.Rollups = func(*settled.Options) {}
	}
	l := &Layer{cfg: cfg, o: o, blocks: map[string]*settled.Block{}}
	if l.rules, err = compileRules(cfg.Retention, o.Retention); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open settled series in %s: %w", cfg.Dir, err), l.Close())
		}
	}()
	if err := os.MkdirAll(cfg.Dir, 0o777); err != nil {
		return nil, err
	}
	if l.manifest, err = readManifest(cfg.Dir); err != nil {
		return nil, err
	}
	left, err := l.removeLeft()
	if err != nil {
		return nil, err
	}
	var samples, bytes int64
	for _, b := range l.manifest.Blocks {
		block, err := settled.Open(filepath.Join(cfg.Dir, b.ID))
		if err != nil {
			return nil, err
		}
		l.blocks[b.ID] = block
		samples += b.Samples
		bytes += b.Bytes
	}
	if err := l.compileDeletions(); err != nil {
		return nil, err
	}
	l.m = newMetrics(o.Registerer, l)
	if len(l.manifest.Blocks) > 0 || left > 0 {
		o.Log.Info("settled series opened", "blocks", len(l.manifest.Blocks), "samples", samples, "bytes", bytes, "manifest", l.manifest.Sequence,
			"deletionsPending", len(l.manifest.Deletions), "sourcesReplaced", len(l.manifest.Replaced), "leftOverRemoved", left)
	}
	return l, nil
}

// removeLeft deletes what a crash has left of runs whose manifest did not come to be.
func (l *Layer) removeLeft() (n int, err error) {
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		known := slices.ContainsFunc(l.manifest.Blocks, func(b Block) bool { return b.ID == e.Name() })
		if known || !strings.HasPrefix(e.Name(), blockPrefix) {
			continue
		}
		n++
		if err := os.RemoveAll(filepath.Join(l.cfg.Dir, e.Name())); err != nil {
			return n, err
		}
	}
	return n, nil
}

// blockPrefix begins the names of blocks: b, the manifest's sequence number, and which of that run it is.
const blockPrefix = "b-"

// Replaced are blocks of the live store that are settled, and are to be deleted before it opens.
func (l *Layer) Replaced() []string { return slices.Clone(l.manifest.Replaced) }

// Until is where the newest settled sample ends.
func (l *Layer) Until() (end kemi.Millis) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.manifest.Blocks {
		end = max(end, b.To)
	}
	return end
}

// Attach says which store is settled.
func (l *Layer) Attach(live Live) { l.live = live }

// Ready waits until the live store is open.
func (l *Layer) Ready(ctx context.Context) error { return l.live.Ready(ctx) }

// Run settles and merges what is due, until ctx ends.
func (l *Layer) Run(ctx context.Context) error {
	tick := time.NewTicker(l.cfg.Every)
	defer tick.Stop()
	for {
		if _, err := l.Settle(ctx, Due); err != nil && ctx.Err() == nil {
			l.m.failed.Inc()
			l.o.Log.Error("series not settled; trying again", "wait", l.cfg.Every, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Close closes the blocks; readers that have a View keep theirs.
func (l *Layer) Close() error {
	l.runMu.Lock()
	defer l.runMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	for _, b := range l.blocks {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}

func (l *Layer) compileDeletions() error {
	l.deletes = nil
	for _, d := range l.manifest.Deletions {
		m, err := Matching(d.Selector)
		if err != nil {
			return fmt.Errorf("deletion %d: %w", d.Sequence, err)
		}
		ms, err := settled.Compile(d.Selector)
		if err != nil {
			return fmt.Errorf("deletion %d: %w", d.Sequence, err)
		}
		l.deletes = append(l.deletes, compiled{d, m, ms})
	}
	return nil
}

// commit puts a changed manifest in force. added are its new blocks, opened.
func (l *Layer) commit(change func(m *manifest), added map[string]*settled.Block) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	next := l.manifest.clone()
	next.Sequence++
	change(&next)
	next.dropDone()
	if err := next.write(l.cfg.Dir, l.o.Step); err != nil {
		// Which of the two is there is not known: what both name stays.
		return fmt.Errorf("write %s: %w", manifestFile, err)
	}
	l.manifest = next
	for id, b := range added {
		l.blocks[id] = b
	}
	var gone []string
	var errs []error
	for id, b := range l.blocks {
		if !slices.ContainsFunc(next.Blocks, func(x Block) bool { return x.ID == id }) {
			gone = append(gone, id)
			errs = append(errs, b.Close())
			delete(l.blocks, id)
		}
	}
	errs = append(errs, l.compileDeletions())
	l.o.Step("manifest in force")
	for _, id := range gone {
		errs = append(errs, os.RemoveAll(filepath.Join(l.cfg.Dir, id)))
		l.o.Step("replaced block deleted")
	}
	return errors.Join(errs...)
}

var errClosed = kemi.Errorf(kemi.ErrUnavailable, "settled series: closed")

// Stats is what the layer holds.
type Stats struct {
	Blocks    int     `json:"blocks"`
	Series    int64   `json:"series"` // summed over the blocks
	Samples   int64   `json:"samples"`
	Bytes     int64   `json:"bytes"`
	Sequence  uint64  `json:"manifest"`
	Deletions int     `json:"deletionsPending"`
	List      []Block `json:"list"`
}

// Stats tells what the layer holds.
func (l *Layer) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{Blocks: len(l.manifest.Blocks), Sequence: l.manifest.Sequence, Deletions: len(l.manifest.Deletions), List: slices.Clone(l.manifest.Blocks)}
	for _, b := range s.List {
		s.Series += b.Series
		s.Samples += b.Samples
		s.Bytes += b.Bytes
	}
	return s
}
