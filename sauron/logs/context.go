package logs

import (
	"context"
	"net/http"
	"slices"

	"kemi"
	"kemi/pipeline/store"
)

// serveContext gives the records of a record's stream that stand before and after it.
func (l *Logs) serveContext(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	v, err := params(w, r)
	if err != nil {
		return err
	}
	name := v.Get("id")
	if name == "" {
		return kemi.Errorf(kemi.ErrInvalid, "id: is missing: must be the id of a record")
	}
	before, err := number(v, "before", 10, 0, 1000)
	if err != nil {
		return err
	}
	after, err := number(v, "after", 10, 0, 1000)
	if err != nil {
		return err
	}
	began := l.o.Now()
	span := store.NanoRange{From: 0, To: 1<<63 - 1}
	if s := v.Get("at"); s != "" { // the record's time: then it need not be searched everywhere
		at, err := parseTime(s, began)
		if err != nil {
			return named("at", err)
		}
		span = store.NanoRange{From: at, To: at + 1e6}
	}
	ctx, done, err := l.admit(r.Context())
	if err != nil {
		return err
	}
	defer done()
	fresh := l.o.Freshness()
	rec, err := l.byID(ctx, id, name, span)
	if err != nil {
		return l.timedOut(err)
	}
	older, err := l.neighbours(ctx, id, rec, before, false)
	if err != nil {
		return l.timedOut(err)
	}
	newer, err := l.neighbours(ctx, id, rec, after, true)
	if err != nil {
		return l.timedOut(err)
	}
	slices.Reverse(older)
	s := summarize(fresh, nil, began, l.o.Now())
	s.Stats.Records = len(older) + 1 + len(newer)
	b := []byte(`{"records":[`)
	for _, x := range older {
		b = append(appendRecord(b, &x), ',')
	}
	b = appendRecord(b, &rec)
	for _, x := range newer {
		b = appendRecord(append(b, ','), &x)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(appendSummary(append(b, ']'), s), '\n'))
	return nil
}

func (l *Logs) byID(ctx context.Context, id kemi.Identity, name string, span store.NanoRange) (kemi.LogRecord, error) {
	q := store.LogQuery{Expr: store.LogPhrase{Field: "id", Text: name}, Range: span}
	for r, err := range l.o.Store.Search(ctx, id, q) {
		if err != nil {
			return kemi.LogRecord{}, err
		}
		if r.ID == name { // a phrase also matches where it is a part
			return r, nil
		}
	}
	return kemi.LogRecord{}, kemi.Errorf(kemi.ErrNotFound, "id: %s: there is no such record", quote(name))
}

// neighbours are up to n records of the stream of rec, from it on in one direction.
func (l *Logs) neighbours(ctx context.Context, id kemi.Identity, rec kemi.LogRecord, n int, newer bool) ([]kemi.LogRecord, error) {
	if n == 0 {
		return nil, nil
	}
	q := store.LogQuery{Range: store.NanoRange{To: rec.At + 1}, Ascending: newer}
	if newer {
		q.Range = store.NanoRange{From: rec.At, To: 1<<63 - 1}
	}
	var same store.LogAnd
	for _, label := range rec.Stream {
		same = append(same, store.LogPhrase{Field: label.Name, Text: label.Value})
	}
	q.Expr = same
	var out []kemi.LogRecord
	for r, err := range l.o.Store.Search(ctx, id, q) {
		if err != nil {
			return nil, err
		}
		if !slices.Equal(r.Stream, rec.Stream) {
			continue
		}
		// Of one time, the smaller ID comes first, whichever way the store goes.
		if r.At == rec.At && (newer && r.ID <= rec.ID || !newer && r.ID >= rec.ID) {
			continue
		}
		if out = append(out, r); len(out) == n {
			break
		}
	}
	return out, nil
}
