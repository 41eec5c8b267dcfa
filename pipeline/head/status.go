package head

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"kemi"
)

// Stats is what the whole store holds, all projects together.
type Stats struct {
	Series      uint64      // in memory
	MinTime     kemi.Millis // of what is here, about; 0 if there is nothing
	MaxTime     kemi.Millis
	ChunkBytes  int64 // of chunk files that are not settled
	LateSamples int64 // that are not being settled yet
	Files       int   // chunk files that are not settled
}

// Stats tells what the store holds. It is cheap: no series is looked at.
func (db *DB) Stats() Stats {
	if !db.isOpen() {
		return Stats{}
	}
	newest, oldest := db.bounds()
	db.mu.RLock()
	defer db.mu.RUnlock()
	s := Stats{Series: uint64(db.alive.Load()), LateSamples: db.lateSamples}
	late := db.lateSamples > 0
	for _, f := range db.chunks.files {
		if f.doomed {
			continue
		}
		s.Files++
		s.ChunkBytes += f.size
		late = late || f.late && f.size > int64(len(chunkMagic))
	}
	for i := range db.chunks.open {
		s.ChunkBytes += int64(len(db.chunks.open[i].pending))
	}
	if db.from > db.to || db.alive.Load() == 0 {
		return s
	}
	// What is refused as too old or too far ahead has widened the two all the same.
	from, to := max(db.from, oldest), min(db.to, newest)
	if !late {
		from = max(from, db.cut)
	}
	s.MinTime, s.MaxTime = kemi.Millis(min(from, to)), kemi.Millis(to)
	return s
}

type (
	// status has the form of Prometheus' /api/v1/status/tsdb.
	status struct {
		Head            headStatus  `json:"headStats"`
		SeriesByMetric  []nameCount `json:"seriesCountByMetricName"`
		ValuesByLabel   []nameCount `json:"labelValueCountByLabelName"`
		BytesByLabel    []nameCount `json:"memoryInBytesByLabelName"`
		SeriesByPairing []nameCount `json:"seriesCountByLabelValuePair"`
	}
	headStatus struct {
		Series     uint64 `json:"numSeries"`
		LabelPairs int    `json:"numLabelPairs"`
		Chunks     int64  `json:"chunkCount"` // that are in memory and grow, not those in files
		MinTime    int64  `json:"minTime"`
		MaxTime    int64  `json:"maxTime"`
	}
	nameCount struct {
		Name  string `json:"name"`
		Value uint64 `json:"value"`
	}
)

// statusStep is how many pairs or series are looked at before others have their turn.
const statusStep = 1 << 14

// Status tells which metrics and labels of the identity's project take how much of what is in memory, the limit largest of each. It comes from the index, series
// are looked at for times only.
func (db *DB) Status(ctx context.Context, id kemi.Identity, limit int) (any, error) {
	if err := mayRead(id); err != nil {
		return nil, err
	}
	if !db.settle(ctx) {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "status of series: %s", db.opening().Reason)
	}
	v := db.view(id.Project)
	defer v.close()
	limit = max(0, limit)
	metrics, pairs := largest{limit: limit}, largest{limit: limit}
	values, bytes := map[string]uint64{}, map[string]uint64{}
	s := status{}
	var err error
	if v.sp != nil {
		err = v.eachPair(ctx, func(name, value string, series uint64) {
			s.Head.LabelPairs++
			values[name]++
			bytes[name] += labels.SizeOfLabels(name, value, series) // as if each series had its own, as Prometheus says it
			pairs.add(name, value, series)
			if name == kemi.MetricName {
				metrics.add("", value, series)
			}
		})
		if err == nil {
			s.Head, err = v.headStatus(ctx, s.Head)
		}
	}
	if err != nil {
		return nil, err
	}
	s.SeriesByMetric, s.SeriesByPairing = metrics.list(), pairs.list()
	s.ValuesByLabel, s.BytesByLabel = largestOf(values, limit), largestOf(bytes, limit)
	return s, nil
}

// eachPair calls f for each name and value that some series have, with how many have it.
func (v *view) eachPair(ctx context.Context, f func(name, value string, series uint64)) error {
	for i, n := 0, 1; i < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		v.db.mu.RLock()
		n = len(v.sp.pairs)
		for end := min(n, i+statusStep); i < end; i++ {
			if p := &v.sp.pairs[i]; p.any {
				f(p.name, p.value, uint64(p.len()))
			}
		}
		v.db.mu.RUnlock()
	}
	return nil
}

// headStatus counts series, and finds from when to when they have samples, about: what is in files may be of other projects.
func (v *view) headStatus(ctx context.Context, h headStatus) (headStatus, error) {
	db := v.db
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	db.mu.RLock()
	ids := slices.Clone(v.sp.ids)
	for _, f := range db.chunks.files {
		if !f.doomed && !f.late {
			from = min(from, max(f.first, v.cut))
		}
	}
	db.mu.RUnlock()
	for len(ids) > 0 {
		if err := ctx.Err(); err != nil {
			return h, err
		}
		n := min(statusStep, len(ids))
		db.mu.RLock()
		for _, id := range ids[:n] {
			s := db.there(id)
			if s == nil {
				continue
			}
			h.Series++
			if s.last >= v.cut && s.last != never {
				first := s.last
				if s.n > 0 {
					first = max(s.base, v.cut)
					h.Chunks++
				}
				from, to = min(from, first), max(to, s.last)
			}
			if s.is(histograms) {
				h.Chunks++
			}
			if s.is(laned) {
				l := db.lanes[id]
				if len(l.at) > 0 || len(l.hist) > 0 {
					h.Chunks++
				}
				if l.from <= l.to {
					from, to = min(from, l.from), max(to, l.to)
				}
			}
		}
		db.mu.RUnlock()
		ids = ids[n:]
	}
	if from <= to {
		h.MinTime, h.MaxTime = from, to
	}
	return h, nil
}

// largest gathers the entries with the largest counts.
type largest struct {
	limit int
	all   []counted
	least uint64 // what has less is not among them
}

type counted struct {
	name, value string
	n           uint64
}

func (l *largest) add(name, value string, n uint64) {
	if n < l.least {
		return
	}
	l.all = append(l.all, counted{name, value, n})
	if len(l.all) >= 2*l.limit+1024 {
		l.cut()
	}
}

func (l *largest) cut() {
	slices.SortFunc(l.all, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name), cmp.Compare(a.value, b.value))
	})
	if len(l.all) > l.limit {
		l.all = l.all[:l.limit]
	}
	if n := len(l.all); n == l.limit && n > 0 {
		l.least = l.all[n-1].n
	}
}

// list is them in descending order.
func (l *largest) list() []nameCount {
	l.cut()
	out := make([]nameCount, 0, len(l.all))
	for _, c := range l.all {
		name := c.value
		if c.name != "" {
			name = c.name + "=" + c.value
		}
		out = append(out, nameCount{name, c.n})
	}
	return out
}

// largestOf is the entries of m with the largest counts, in descending order.
func largestOf(m map[string]uint64, limit int) []nameCount {
	l := largest{limit: limit}
	for k, n := range m {
		l.add("", k, n)
	}
	return l.list()
}
