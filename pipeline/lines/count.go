package lines

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"kemi"
	"kemi/pipeline/pattern"
	"kemi/pipeline/store"
)

const (
	maxBuckets = 10_000
	maxGroups  = 10_000
	// maxValues is how many values of all fields together Fields counts; later ones are counted as more.
	maxValues = 200_000
)

// Histogram counts per step of time; see store.LogStore.
func (s *Store) Histogram(ctx context.Context, id kemi.Identity, lq store.LogQuery, step kemi.Millis) ([]store.LogBucket, error) {
	q, err := newQuery(id, lq)
	if err != nil {
		return nil, err
	}
	if step <= 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field step: value %d: must be more than 0 milliseconds", step)
	}
	if q.r.To <= q.r.From {
		return nil, nil
	}
	number := func(at kemi.Millis) int64 {
		n := int64(at) / int64(step)
		if int64(at)%int64(step) < 0 {
			n--
		}
		return n
	}
	first, last := number(q.r.From.Millis()), number((q.r.To - 1).Millis())
	if last-first < 0 || last-first >= maxBuckets {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field step: value %dms: makes more than %d buckets of the range; at least %dms would do",
			step, maxBuckets, int64((float64(q.r.To)-float64(q.r.From))/1e6/(maxBuckets-2))+1)
	}
	out := make([]store.LogBucket, last-first+1)
	for i := range out {
		out[i].At = kemi.Millis((first + int64(i)) * int64(step))
	}
	add := func(at kemi.Millis, sev kemi.Severity, n int64) {
		b := &out[number(at)-first]
		b.Count += n
		if b.BySeverity == nil {
			b.BySeverity = map[string]int64{}
		}
		b.BySeverity[sev.String()] += n
	}
	v := s.view()
	defer v.release()
	err = q.inHeads(ctx, v, func(r *kemi.LogRecord) error {
		add(r.At.Millis(), r.Severity, 1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	type count struct {
		at  kemi.Millis
		sev kemi.Severity
		n   int64
	}
	return out, s.each(ctx, q, v, func(sel *pattern.Selection) error {
		var counts []count // of a block that turns out to be damaged none counts
		if err := sel.Histogram(step, func(at kemi.Millis, sev kemi.Severity, n int64) { counts = append(counts, count{at, sev, n}) }); err != nil {
			return err
		}
		for _, c := range counts {
			add(c.at, c.sev, c.n)
		}
		return nil
	})
}

// Count counts by the values of fields; see store.LogStore. The most frequent come first. More than 10 000 groups are an error: a part of them would not be an answer.
func (s *Store) Count(ctx context.Context, id kemi.Identity, lq store.LogQuery, by []string) ([]store.GroupCount, error) {
	q, err := newQuery(id, lq)
	if err != nil {
		return nil, err
	}
	v := s.view()
	defer v.release()
	if len(by) == 0 {
		var total int64
		if err := q.inHeads(ctx, v, func(*kemi.LogRecord) error { total++; return nil }); err != nil {
			return nil, err
		}
		err := s.each(ctx, q, v, func(sel *pattern.Selection) error { total += int64(sel.Len()); return nil })
		return []store.GroupCount{{Count: total}}, err
	}
	groups := map[string]*store.GroupCount{}
	var key []byte
	add := func(values []string, n int64) error {
		key = key[:0]
		for _, v := range values {
			key = append(append(key, v...), 0xff, 0xfe)
		}
		g := groups[string(key)]
		if g == nil {
			if len(groups) >= maxGroups {
				return kemi.Errorf(kemi.ErrLimited, "count by %s: more than %d groups: narrow the query or group by fewer fields", strings.Join(by, ", "), maxGroups)
			}
			g = &store.GroupCount{}
			for i, name := range by {
				g.Labels = append(g.Labels, kemi.Label{Name: name, Value: strings.Clone(values[i])})
			}
			g.Labels = g.Labels.Normalize()
			groups[string(key)] = g
		}
		g.Count += n
		return nil
	}
	values := make([]string, len(by))
	err = q.inHeads(ctx, v, func(r *kemi.LogRecord) error {
		for i, name := range by {
			values[i], _ = store.FieldOf(r, name)
		}
		return add(values, 1)
	})
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, q, v, func(sel *pattern.Selection) error {
		var failed error
		err := sel.CountBy(by, func(values []string, n int64) {
			if failed == nil {
				failed = add(values, n)
			}
		})
		if failed != nil {
			return failed
		}
		return err
	})
	if err != nil {
		return nil, err
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

// Series counts by the values of fields and by time; see store.LogStore.
func (s *Store) Series(ctx context.Context, id kemi.Identity, lq store.LogQuery, by []string, step kemi.Nanos) ([]store.GroupSeries, error) {
	q, err := newQuery(id, lq)
	if err != nil {
		return nil, err
	}
	if step <= 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field step: value %d: must be more than 0 nanoseconds", step)
	}
	if q.r.To <= q.r.From {
		return nil, nil
	}
	n := (float64(q.r.To)-float64(q.r.From))/float64(step) + 1
	if n > maxBuckets+1 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field step: value %dns: makes more than %d buckets of the range", step, maxBuckets)
	}
	buckets := int((q.r.To - q.r.From + step - 1) / step)
	groups := map[string]*store.GroupSeries{}
	var key []byte
	add := func(values []string, bucket int, n int64) error {
		key = key[:0]
		for _, v := range values {
			key = append(append(key, v...), 0xff, 0xfe)
		}
		g := groups[string(key)]
		if g == nil {
			if len(groups) >= maxGroups || (len(groups)+1)*buckets > store.MaxSeriesCounts {
				return kemi.Errorf(kemi.ErrLimited, "series by %s: more than %d groups or %d counts: narrow the query, group by fewer fields, or take a longer step", strings.Join(by, ", "), maxGroups, store.MaxSeriesCounts)
			}
			g = &store.GroupSeries{Counts: make([]int64, buckets)}
			for i, name := range by {
				g.Labels = append(g.Labels, kemi.Label{Name: name, Value: strings.Clone(values[i])})
			}
			g.Labels = g.Labels.Normalize()
			groups[string(key)] = g
		}
		g.Counts[bucket] += n
		return nil
	}
	v := s.view()
	defer v.release()
	values := make([]string, len(by))
	err = q.inHeads(ctx, v, func(r *kemi.LogRecord) error {
		for i, name := range by {
			values[i], _ = store.FieldOf(r, name)
		}
		return add(values, int((r.At-q.r.From)/step), 1)
	})
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, q, v, func(sel *pattern.Selection) error {
		var failed error
		err := sel.Series(by, q.r.From, step, buckets, func(values []string, bucket int, n int64) {
			if failed == nil {
				failed = add(values, bucket, n)
			}
		})
		if failed != nil {
			return failed
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.GroupSeries, 0, len(groups))
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b store.GroupSeries) int { return a.Labels.Compare(b.Labels) })
	return out, nil
}

// fieldCounts counts the values of one field.
type fieldCounts struct {
	values map[string]int64
	more   int64
}

// fieldTable counts the values of fields, at most maxValues.
type fieldTable struct {
	fields map[string]*fieldCounts
	values int
}

func (t *fieldTable) add(name, value string, n int64) {
	if value == "" {
		return
	}
	f := t.fields[name]
	if f == nil {
		if t.values >= maxValues {
			return
		}
		f = &fieldCounts{values: map[string]int64{}}
		t.fields[strings.Clone(name)] = f
	}
	if c, ok := f.values[value]; ok {
		f.values[value] = c + n
	} else if t.values < maxValues {
		t.values++
		f.values[strings.Clone(value)] = n
	} else {
		f.more += n
	}
}

// Fields tells level, stream labels and attributes with their most frequent values; see store.LogStore. A value that first comes when very many have been seen is
// counted as more, even if it becomes frequent.
func (s *Store) Fields(ctx context.Context, id kemi.Identity, lq store.LogQuery, top int) ([]store.LogField, error) {
	q, err := newQuery(id, lq)
	if err != nil {
		return nil, err
	}
	if top < 0 {
		return nil, kemi.Errorf(kemi.ErrInvalid, "field top: value %d: must not be negative", top)
	}
	t := &fieldTable{fields: map[string]*fieldCounts{}}
	v := s.view()
	defer v.release()
	err = q.inHeads(ctx, v, func(r *kemi.LogRecord) error {
		level := r.Severity.String()
		t.add("level", level, 1)
		for _, l := range r.Stream {
			if l.Name != "level" || level == "" {
				t.add(l.Name, l.Value, 1)
			}
		}
		for _, l := range r.Attrs {
			if (l.Name != "level" || level == "") && !r.Stream.Has(l.Name) {
				t.add(l.Name, l.Value, 1)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, q, v, func(sel *pattern.Selection) error {
		names, err := sel.Fields()
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := sel.CountBy([]string{name}, func(values []string, n int64) { t.add(name, values[0], n) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t.list(top), nil
}

func (t *fieldTable) list(top int) []store.LogField {
	out := make([]store.LogField, 0, len(t.fields))
	for name, f := range t.fields {
		lf := store.LogField{Name: name, More: f.more, Values: make([]store.FieldCount, 0, len(f.values))}
		for v, n := range f.values {
			lf.Values = append(lf.Values, store.FieldCount{Value: v, Count: n})
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
	return out
}
