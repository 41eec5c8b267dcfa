package head

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"kemi"
	"kemi/pipeline/bus"
)

// Before checkpoints there was Prometheus' tsdb in the folder: blocks, a WAL, chunk files. What is left of it is moved aside, is a source like others, and goes
// when it is settled.

const (
	legacyDir       = "legacy"
	legacyPositions = "positions.json"
	legacySource    = sourcePrefix + "legacy"
)

// legacyNames are what the library has in its folder, beside blocks.
func isLegacy(name string) bool {
	_, err := ulid.ParseStrict(name)
	return err == nil || name == "wal" || name == "wbl" || name == "chunks_head" || strings.HasPrefix(name, "chunk_snapshot.")
}

// moveLegacy moves what an earlier version has left aside, and deletes what had been settled of it. true if there is something.
func moveLegacy(dir string, retired []string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	aside := filepath.Join(dir, legacyDir)
	for _, e := range entries {
		if !e.IsDir() || !isLegacy(e.Name()) {
			continue
		}
		if slices.Contains(retired, e.Name()) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return false, err
			}
			continue
		}
		if err := os.MkdirAll(aside, 0o777); err != nil {
			return false, err
		}
		if err := os.Rename(filepath.Join(dir, e.Name()), filepath.Join(aside, e.Name())); err != nil {
			return false, err
		}
	}
	for _, name := range []string{"applied", "late.json", "lock"} {
		if err := removeIfThere(filepath.Join(dir, name)); err != nil {
			return false, err
		}
	}
	if err := os.Rename(filepath.Join(dir, legacyPositions), filepath.Join(aside, legacyPositions)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if slices.Contains(retired, legacySource) {
		return false, os.RemoveAll(aside)
	}
	if _, err := os.Stat(aside); err != nil {
		return false, nil //nolint:nilerr // there is none
	}
	return true, nil
}

// positionsOfLegacy are up to where what an earlier version has left surely goes: from there on the log is replayed.
func positionsOfLegacy(dir string) (bus.Positions, error) {
	b, err := os.ReadFile(filepath.Join(dir, legacyDir, legacyPositions))
	if errors.Is(err, fs.ErrNotExist) {
		return bus.Positions{}, nil
	}
	var note struct{ Positions bus.Positions }
	if err == nil {
		err = json.Unmarshal(b, &note)
	}
	if err != nil || note.Positions == nil {
		return bus.Positions{}, err
	}
	return note.Positions, nil
}

// readLegacy yields the series that an earlier version has left, in the order of projects and labels.
func (db *DB) readLegacy(ctx context.Context, yield func(StoredSeries, error) bool) {
	fail := func(err error) { yield(StoredSeries{}, fmt.Errorf("read the series of an earlier version: %w", err)) }
	o := tsdb.DefaultOptions()
	o.RetentionDuration = math.MaxInt64 / 2
	o.OutOfOrderTimeWindow = (db.cfg.Retention + db.cfg.MaxFuture + keepLonger).Milliseconds()
	o.BlockReloadInterval = 1 << 62
	old, err := tsdb.Open(filepath.Join(db.cfg.Dir, legacyDir), slog.New(slog.DiscardHandler), nil, o, nil)
	if err != nil {
		fail(err)
		return
	}
	old.DisableCompactions()
	defer func() { _ = old.Close() }()
	q, err := old.ChunkQuerier(math.MinInt64, math.MaxInt64)
	if err != nil {
		fail(err)
		return
	}
	defer q.Close()
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchNotEqual, ProjectLabel, ""))
	var out StoredSeries
	var chunkIt chunks.Iterator
	var it chunkenc.Iterator
	for set.Next() {
		if err := ctx.Err(); err != nil {
			fail(err)
			return
		}
		if err := out.take(set.At(), &chunkIt, &it); err != nil {
			fail(err)
			return
		}
		if out.Project != "\x00" && !yield(out, nil) { // a series of that project was no series
			return
		}
	}
	if err := set.Err(); err != nil {
		fail(err)
	}
}

// take makes s what a series of the library is.
func (s *StoredSeries) take(from storage.ChunkSeries, chunkIt *chunks.Iterator, it *chunkenc.Iterator) error {
	s.Labels, s.At, s.Values, s.Histograms = s.Labels[:0], s.At[:0], s.Values[:0], nil
	from.Labels().Range(func(l labels.Label) {
		if l.Name == ProjectLabel {
			s.Project = l.Value
		} else {
			s.Labels = append(s.Labels, kemi.Label{Name: l.Name, Value: l.Value})
		}
	})
	*chunkIt = from.Iterator(*chunkIt)
	for (*chunkIt).Next() {
		m := (*chunkIt).At()
		if e := m.Chunk.Encoding(); e != chunkenc.EncXOR && e != chunkenc.EncXOR2 {
			s.Histograms = append(s.Histograms, HistogramChunk{From: kemi.Millis(m.MinTime), To: kemi.Millis(m.MaxTime), Samples: m.Chunk.NumSamples(), Encoding: e, Chunk: m.Chunk.Bytes()})
			continue
		}
		*it = m.Chunk.Iterator(*it)
		for (*it).Next() != chunkenc.ValNone {
			t, v := (*it).At()
			s.At, s.Values = append(s.At, kemi.Millis(t)), append(s.Values, v)
		}
		if err := (*it).Err(); err != nil {
			return err
		}
	}
	return (*chunkIt).Err()
}
