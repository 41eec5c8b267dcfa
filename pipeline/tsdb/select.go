package tsdb

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"kemi"
	"kemi/pipeline/store"
)

// mayRead is an error for an identity without a project.
func mayRead(id kemi.Identity) error {
	if id.Project == "" {
		return kemi.Errorf(kemi.ErrDenied, "series: %q reads no project", id.Subject)
	}
	return nil
}

// matchers are sel as the library has them, with the project.
func matchers(id kemi.Identity, sel store.Selector) ([]*labels.Matcher, error) {
	if err := mayRead(id); err != nil {
		return nil, err
	}
	ms := make([]*labels.Matcher, 0, len(sel)+1)
	ms = append(ms, inProject(id))
	for _, m := range sel {
		if m.Name == "" || m.Name == projectLabel {
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher: label name %q: no label has that name", m.Name)
		}
		var kind labels.MatchType
		switch m.Op {
		case store.Equal:
			kind = labels.MatchEqual
		case store.NotEqual:
			kind = labels.MatchNotEqual
		case store.Regexp:
			kind = labels.MatchRegexp
		case store.NotRegexp:
			kind = labels.MatchNotRegexp
		default:
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: operation %d: there are =, !=, =~ and !~", m.Name, m.Op)
		}
		lm, err := labels.NewMatcher(kind, m.Name, m.Value)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "matcher of label %q: regular expression %q: %w", m.Name, m.Value, err)
		}
		ms = append(ms, lm)
	}
	return ms, nil
}

func inProject(id kemi.Identity) *labels.Matcher {
	return &labels.Matcher{Type: labels.MatchEqual, Name: projectLabel, Value: id.Project}
}

// stripped is ls without the project. The project's label is the first, so nothing is copied.
func stripped(ls labels.Labels) labels.Labels {
	return ls.DropReserved(func(name string) bool { return name == projectLabel })
}

func kemiLabels(ls labels.Labels) kemi.Labels {
	out := make(kemi.Labels, 0, ls.Len())
	ls.Range(func(l labels.Label) {
		if l.Name != projectLabel {
			out = append(out, kemi.Label{Name: l.Name, Value: l.Value})
		}
	})
	return out
}

// Select yields the series that match. Chunks are decoded straight into the columns that are yielded; they are used again for the
// next series.
func (db *DB) Select(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Points, error] {
	return func(yield func(kemi.Points, error) bool) {
		ms, err := matchers(id, sel)
		if err != nil {
			yield(kemi.Points{}, err)
			return
		}
		if r.To <= r.From {
			return
		}
		mint, maxt := int64(r.From), int64(r.To)-1
		q, err := db.db.ChunkQuerier(mint, maxt)
		if err != nil {
			yield(kemi.Points{}, fmt.Errorf("select series: %w", err))
			return
		}
		defer q.Close()
		// Chunks come whole, also where they reach out of the range: to cut them would be to decode and encode them.
		set := q.Select(ctx, true, &storage.SelectHints{Start: mint, End: maxt, DisableTrimming: true, Step: 1}, ms...)
		var c columns
		var chunkIt chunks.Iterator
		for set.Next() {
			if err := ctx.Err(); err != nil {
				yield(kemi.Points{}, err)
				return
			}
			s := set.At()
			chunkIt = s.Iterator(chunkIt)
			if err := c.read(chunkIt, mint, maxt); err != nil {
				yield(kemi.Points{}, fmt.Errorf("select %s: %w", stripped(s.Labels()), err))
				return
			}
			if len(c.at) > 0 && !yield(kemi.Points{Labels: kemiLabels(s.Labels()), At: c.at, Values: c.values}, nil) {
				return
			}
		}
		if err := set.Err(); err != nil {
			yield(kemi.Points{}, fmt.Errorf("select series: %w", err))
		}
	}
}

// columns are the samples of one series.
type columns struct {
	at     []kemi.Millis
	values []float64
	it     chunkenc.Iterator
}

// read takes the chunks, which come in order and do not overlap.
func (c *columns) read(it chunks.Iterator, mint, maxt int64) (err error) {
	c.at, c.values = c.at[:0], c.values[:0]
	for it.Next() {
		m := it.At()
		if m.MaxTime < mint || m.MinTime > maxt {
			continue
		}
		switch m.Chunk.Encoding() {
		case chunkenc.EncXOR:
			if c.at, c.values, err = decodeXOR(m.Chunk.Bytes(), mint, maxt, c.at, c.values); err != nil {
				return err
			}
		case chunkenc.EncXOR2:
			c.it = m.Chunk.Iterator(c.it)
			for c.it.Next() != chunkenc.ValNone {
				if t, v := c.it.At(); t >= mint && t <= maxt && !value.IsStaleNaN(v) {
					c.at, c.values = append(c.at, kemi.Millis(t)), append(c.values, v)
				}
			}
			if err := c.it.Err(); err != nil {
				return err
			}
		}
	}
	return it.Err()
}

// Series yields the label sets that match, in order.
func (db *DB) Series(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) iter.Seq2[kemi.Labels, error] {
	return func(yield func(kemi.Labels, error) bool) {
		ms, err := matchers(id, sel)
		if err != nil {
			yield(nil, err)
			return
		}
		if r.To <= r.From {
			return
		}
		mint, maxt := int64(r.From), int64(r.To)-1
		q, err := db.db.Querier(mint, maxt)
		if err != nil {
			yield(nil, fmt.Errorf("list series: %w", err))
			return
		}
		defer q.Close()
		set := q.Select(ctx, true, &storage.SelectHints{Start: mint, End: maxt, Func: "series"}, ms...)
		for set.Next() {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			if !yield(kemiLabels(set.At().Labels()), nil) {
				return
			}
		}
		if err := set.Err(); err != nil {
			yield(nil, fmt.Errorf("list series: %w", err))
		}
	}
}

// LabelNames are the names that the matching series have.
func (db *DB) LabelNames(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	return db.labels(ctx, id, sel, r, limit, func(q storage.Querier, ms []*labels.Matcher) ([]string, error) {
		names, _, err := q.LabelNames(ctx, nil, ms...)
		return withoutProject(names), err
	})
}

// LabelValues are the values of a label that the matching series have.
func (db *DB) LabelValues(ctx context.Context, id kemi.Identity, name string, sel store.Selector, r kemi.Range, limit int) ([]string, error) {
	if name == projectLabel {
		return nil, nil
	}
	return db.labels(ctx, id, sel, r, limit, func(q storage.Querier, ms []*labels.Matcher) ([]string, error) {
		values, _, err := q.LabelValues(ctx, name, nil, ms...)
		return values, err
	})
}

func (db *DB) labels(ctx context.Context, id kemi.Identity, sel store.Selector, r kemi.Range, limit int, read func(storage.Querier, []*labels.Matcher) ([]string, error)) ([]string, error) {
	ms, err := matchers(id, sel)
	if err != nil || r.To <= r.From {
		return nil, err
	}
	q, err := db.db.Querier(int64(r.From), int64(r.To)-1)
	if err != nil {
		return nil, fmt.Errorf("list labels: %w", err)
	}
	defer q.Close()
	out, err := read(q, ms)
	if err != nil {
		return nil, fmt.Errorf("list labels: %w", err)
	}
	if limit <= 0 {
		limit = math.MaxInt
	}
	out = slices.Clone(out[:min(limit, len(out))])
	for i := range out {
		out[i] = strings.Clone(out[i]) // it may lie in a mapped file that goes away with a block
	}
	return out, nil
}
