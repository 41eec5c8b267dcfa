package search

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"kemi"
	"kemi/pipeline/store"
)

const (
	maxBuckets = 10_000
	maxGroups  = 10_000
	// maxValues is how many values of all fields together Fields counts; later ones are counted as more.
	maxValues = 200_000
)

// Histogram counts per step of time; see store.LogStore.
func (x *Index) Histogram(ctx context.Context, id kemi.Identity, lq store.LogQuery, step kemi.Millis) ([]store.LogBucket, error) {
	q, err := newQuery(id, lq)
	if err != nil {
		return nil, err
	}
	if step <= 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field step: value %d: must be more than 0 milliseconds", step)
	}
	if q.to <= q.from {
		return nil, nil
	}
	number := func(at kemi.Nanos) int64 { return floorDiv(int64(at.Millis()), int64(step)) }
	first, last := number(q.from), number(q.to-1)
	if last-first < 0 || last-first >= maxBuckets {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field step: value %dms: makes more than %d buckets of the range; at least %dms would do",
			step, maxBuckets, int64((float64(q.to)-float64(q.from))/1e6/(maxBuckets-2))+1)
	}
	counts := make([][len(severityNames)]int64, last-first+1)
	whole := func(m *blockMeta) bool {
		n := number(m.from)
		if n != number(m.to) {
			return false
		}
		for i, c := range m.bySev {
			counts[n-first][i] += c
		}
		return true
	}
	err = x.each(ctx, q, needs{}, whole, func(r *kemi.LogRecord) error {
		counts[number(r.At)-first][severityIndex(byte(r.Severity))]++
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.LogBucket, len(counts))
	for i := range counts {
		out[i].At = kemi.Millis((first + int64(i)) * int64(step))
		for k, n := range counts[i] {
			if n == 0 {
				continue
			}
			if out[i].BySeverity == nil {
				out[i].BySeverity = map[string]int64{}
			}
			out[i].BySeverity[severityNames[k]] = n
			out[i].Count += n
		}
	}
	return out, nil
}

func floorDiv(a, b int64) int64 {
	n := a / b
	if a%b < 0 {
		n--
	}
	return n
}

// Count counts by the values of fields; see store.LogStore. The most frequent come first. More than 10 000 groups are an
// error: a part of them would not be an answer.
func (x *Index) Count(ctx context.Context, id kemi.Identity, lq store.LogQuery, by []string) ([]store.GroupCount, error) {
	q, err := newQuery(id, lq)
	if err != nil {
		return nil, err
	}
	groups := map[string]*store.GroupCount{}
	var total int64
	var want needs
	for _, name := range by {
		want.field(name)
	}
	whole := func(m *blockMeta) bool {
		if len(by) == 0 {
			total += m.count
		}
		return len(by) == 0
	}
	var key []byte
	err = x.each(ctx, q, want, whole, func(r *kemi.LogRecord) error {
		if len(by) == 0 {
			total++
			return nil
		}
		key = key[:0]
		for _, name := range by {
			v, _ := store.FieldOf(r, name)
			key = appendString(key, v)
		}
		g := groups[string(key)]
		if g == nil {
			if len(groups) >= maxGroups {
				return kemi.Errorf(kemi.ErrLimited, "count by %s: more than %d groups: narrow the query or group by fewer fields", strings.Join(by, ", "), maxGroups)
			}
			g = &store.GroupCount{}
			for _, name := range by {
				v, _ := store.FieldOf(r, name)
				g.Labels = append(g.Labels, kemi.Label{Name: name, Value: strings.Clone(v)})
			}
			g.Labels = g.Labels.Normalize()
			groups[string(key)] = g
		}
		g.Count++
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(by) == 0 {
		return []store.GroupCount{{Count: total}}, nil
	}
	out := make([]store.GroupCount, 0, len(groups))
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b store.GroupCount) int {
		if c := cmp.Compare(b.Count, a.Count); c != 0 {
			return c
		}
		return a.Labels.Compare(b.Labels)
	})
	return out, nil
}

// fieldCounts counts the values of one field. The counts are pointers because to assign to a key of a map replaces the key, too, and the
// value that was read last lies in memory that a block only lends.
type fieldCounts struct {
	values map[string]*int64
	more   int64
}

// Fields tells level, stream labels and attributes with their most frequent values; see store.LogStore. A value that first comes when very
// many have been seen is counted as more, even if it becomes frequent.
func (x *Index) Fields(ctx context.Context, id kemi.Identity, lq store.LogQuery, top int) ([]store.LogField, error) {
	q, err := newQuery(id, lq)
	if err != nil {
		return nil, err
	}
	if top < 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field top: value %d: must not be negative", top)
	}
	fields := map[string]*fieldCounts{}
	values := 0
	count := func(name, value string, n int64) {
		f := fields[name]
		if f == nil {
			if values >= maxValues {
				return
			}
			f = &fieldCounts{values: map[string]*int64{}}
			fields[strings.Clone(name)] = f
		}
		if c, ok := f.values[value]; ok {
			*c += n
		} else if values < maxValues {
			values++
			f.values[strings.Clone(value)] = &n
		} else {
			f.more += n
		}
	}
	whole := (func(*blockMeta) bool)(nil)
	err = x.each(ctx, q, needs{attrs: true}, whole, func(r *kemi.LogRecord) error {
		level := r.Severity.String()
		if level != "" {
			count("level", level, 1)
		}
		for _, l := range r.Stream {
			if l.Name != "level" || level == "" {
				count(l.Name, l.Value, 1)
			}
		}
		for _, l := range r.Attrs {
			if (l.Name != "level" || level == "") && !r.Stream.Has(l.Name) && l.Value != "" {
				count(l.Name, l.Value, 1)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.LogField, 0, len(fields))
	for name, f := range fields {
		lf := store.LogField{Name: name, More: f.more, Values: make([]store.FieldCount, 0, len(f.values))}
		for v, n := range f.values {
			lf.Values = append(lf.Values, store.FieldCount{Value: v, Count: *n})
		}
		slices.SortFunc(lf.Values, func(a, b store.FieldCount) int {
			if c := cmp.Compare(b.Count, a.Count); c != 0 {
				return c
			}
			return strings.Compare(a.Value, b.Value)
		})
		for i := top; i < len(lf.Values); i++ {
			lf.More += lf.Values[i].Count
		}
		lf.Values = slices.Clip(lf.Values[:min(top, len(lf.Values))])
		out = append(out, lf)
	}
	slices.SortFunc(out, func(a, b store.LogField) int {
		if (a.Name == "level") != (b.Name == "level") {
			if a.Name == "level" {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}
