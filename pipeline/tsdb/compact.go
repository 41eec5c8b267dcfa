package tsdb

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
)

// The library writes the head to disk in blocks of two hours, one after another from the oldest sample on. That suits samples
// of now. A head that got samples of eight years ago would make it go through 35 000 empty spans, or write as many tiny blocks.
// So spans that have no samples are passed over, and what is old goes to large blocks at once, aligned as the library aligns
// the ones that it merges.

// blockLevels is how many times blocks grow threefold by merging: 2h, 6h, 18h, 54h, 162h, 486h.
const blockLevels = 6

func largestBlock(smallest time.Duration) time.Duration {
	for range blockLevels - 1 {
		smallest *= 3
	}
	return smallest
}

// lateCompaction is how large the log of late samples may grow before they are put into blocks.
const lateCompaction = 256 << 20

// Compact writes to blocks what is due, and merges blocks. It is called every minute; a call when nothing is due costs little.
func (db *DB) Compact(ctx context.Context) error {
	if err := db.room(); err != nil {
		return err
	}
	db.db.ForceHeadMMap()
	wrote, err := db.compactHead()
	if err != nil {
		return err
	}
	if wrote || dirSize(filepath.Join(db.cfg.Dir, wblDir)) > lateCompaction {
		if err := db.compactLate(ctx); err != nil {
			return err
		}
	}
	if err := db.db.Compact(ctx); err != nil {
		return fmt.Errorf("merge blocks: %w", err)
	}
	if wrote {
		return db.checkpoint(false) // parts of the logs are gone: the note should not point there
	}
	return nil
}

// compactHead writes the older part of what is in memory to blocks, as long as there is more than one and a half block's worth.
func (db *DB) compactHead() (wrote bool, err error) {
	head := db.db.Head()
	block := db.cfg.BlockDuration.Milliseconds()
	for {
		mint, newest := head.MinTime(), head.MaxTime()
		if mint > newest || newest-mint <= block/2*3 {
			return wrote, nil
		}
		select {
		case <-db.stop:
			return wrote, nil
		default:
		}
		maxt := align(mint, block) + block
		// Nothing is appended below newest-block/2 any more, except by the way of late samples.
		for span := largestBlock(db.cfg.BlockDuration).Milliseconds(); span > block; span /= 3 {
			if end := align(mint, span) + span; end <= newest-block {
				maxt = end
				break
			}
		}
		rh := tsdb.NewRangeHeadWithIsolationDisabled(head, mint, maxt-1)
		head.WaitForAppendersOverlapping(rh.MaxTime())
		if err := db.db.CompactHead(rh); err != nil {
			return wrote, fmt.Errorf("write block from %d to %d: %w", mint, maxt, err)
		}
		wrote = true
	}
}

// compactLate writes late samples to blocks.
func (db *DB) compactLate(ctx context.Context) error {
	if err := db.db.CompactOOOHead(ctx); err != nil {
		return fmt.Errorf("write late samples to blocks: %w", err)
	}
	return nil
}

// align is t rounded down to a multiple of span.
func align(t, span int64) int64 {
	r := t % span
	if r < 0 {
		r += span
	}
	return t - r
}

func dirSize(dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() {
			n += st.Size()
		}
	}
	return n
}

// compactor is the library's, but for how it writes late samples.
type compactor struct {
	tsdb.Compactor
	block, largest int64
	head           func() (oldest, newest int64) // what is in memory, in order

	// The library asks for one small span after another. Of one such pass:
	ref     chunks.ChunkDiskMapperRef
	next    int64 // where the next call of the same pass begins
	written int64 // up to where this pass has written
	slots   *slots
}

func newCompactor(block time.Duration) *compactor {
	return &compactor{block: block.Milliseconds(), largest: largestBlock(block).Milliseconds()}
}

func (c *compactor) open(ctx context.Context, r prometheus.Registerer, l *slog.Logger, ranges []int64, pool chunkenc.Pool, o *tsdb.Options) (tsdb.Compactor, error) {
	leveled, err := tsdb.NewLeveledCompactorWithOptions(ctx, r, l, ranges, pool, tsdb.LeveledCompactorOptions{
		MaxBlockChunkSegmentSize: o.MaxBlockChunkSegmentSize, EnableOverlappingCompaction: o.EnableOverlappingCompaction,
		PD: o.PostingsDecoderFactory, FloatChunkEncoding: func() chunkenc.Encoding { return o.FloatChunkEncoding },
		BlockExcludeFilter: c.reachesIntoHead,
	})
	c.Compactor = leveled
	return c, err
}

// reachesIntoHead tells whether a block has late samples of a time that the head still holds. Merged with a block of the head it would
// make that seem to end later than it does, and a restart would take what is in the WAL for written.
func (c *compactor) reachesIntoHead(m *tsdb.BlockMeta) bool {
	oldest, _ := c.head()
	return m.Compaction.FromOutOfOrder() && m.MaxTime > oldest
}

// Write is the library's Write, but that late samples go to as large a block as can be, and empty spans are passed over.
func (c *compactor) Write(dest string, b tsdb.BlockReader, mint, maxt int64, base *tsdb.BlockMeta) ([]ulid.ULID, error) {
	late, ok := b.(*tsdb.OOOCompactionHead)
	if !ok || maxt-mint != c.block {
		return c.Compactor.Write(dest, b, mint, maxt, base)
	}
	if c.slots == nil || c.ref != late.LastMmapRef() || c.next != mint {
		s, err := c.occupied(late)
		if err != nil {
			return nil, err
		}
		c.ref, c.slots, c.written = late.LastMmapRef(), s, mint
	}
	c.next = maxt
	if mint < c.written {
		return nil, nil
	}
	oldest, newest := c.head()
	for span := c.largest; ; span /= 3 {
		if end := mint + span; span <= c.block || align(mint, span) == mint && end <= min(oldest, newest-c.block) {
			c.written = end
			break
		}
	}
	if !c.slots.any(mint, c.written) {
		return nil, nil
	}
	return c.Compactor.Write(dest, late.CloneForTimeRange(mint, c.written-1), mint, c.written, base)
}

// occupied finds the small spans that hold late samples. A chunk counts for all from its first to its last sample.
func (c *compactor) occupied(late *tsdb.OOOCompactionHead) (*slots, error) {
	all := late.CloneForTimeRange(math.MinInt64, math.MaxInt64)
	ir, err := all.Index()
	if err != nil {
		return nil, err
	}
	defer ir.Close()
	k, v := index.AllPostingsKey()
	p, err := ir.Postings(context.Background(), k, v)
	if err != nil {
		return nil, err
	}
	s := &slots{width: c.block, set: map[int64]uint64{}}
	var b labels.ScratchBuilder
	var metas []chunks.Meta
	for p.Next() {
		if err := ir.Series(p.At(), &b, &metas); err != nil {
			continue // gone meanwhile
		}
		for _, m := range metas {
			s.mark(m.MinTime, m.MaxTime)
		}
	}
	return s, p.Err()
}

// slots is a set of spans of one width, 64 to a word.
type slots struct {
	width int64
	set   map[int64]uint64
}

func (s *slots) mark(from, to int64) {
	for i, last := align(from, s.width)/s.width, align(to, s.width)/s.width; i <= last; i++ {
		w, bit := i>>6, i&63
		if bit == 0 && last-i >= 63 {
			s.set[w] = ^uint64(0)
			i += 63
			continue
		}
		s.set[w] |= 1 << bit
	}
}

// any tells whether something is marked from from on, before to; both are multiples of width.
func (s *slots) any(from, to int64) bool {
	for i := from / s.width; i < to/s.width; i++ {
		if s.set[i>>6]&(1<<(i&63)) != 0 {
			return true
		}
	}
	return false
}
