package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

// OpenBus prepares an empty log with these topics (name → partitions) and returns what opens it. The returned function is called again after
// Close, and then must give the same log with all that it holds. MaxRecordBytes of the log must be at most 8 MiB.
type OpenBus func(t testing.TB, topics map[string]int) (open func() bus.Bus)

// Bus checks that a back-end keeps the contract of bus.Bus.
func Bus(t *testing.T, open OpenBus) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, OpenBus)
	}{
		{"RoundTrip", busRoundTrip},
		{"Refuses", busRefuses},
		{"OrderOfKeys", busOrderOfKeys},
		{"Positions", busPositions},
		{"Commit", busCommit},
		{"Waits", busWaits},
		{"Ends", busEnds},
		{"Batches", busBatches},
		{"BytesAreTheCallers", busBytes},
		{"Recycle", busRecycle},
		{"Local", busLocal},
		{"Concurrent", busConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

func busContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustPublish(t testing.TB, b bus.Bus, topic string, records ...bus.Record) []bus.Record {
	t.Helper()
	if err := b.Publish(busContext(t), topic, records); err != nil {
		t.Fatalf("publish %d records: %v", len(records), err)
	}
	return records
}

func mustSubscribe(t testing.TB, b bus.Bus, topic, group string, from bus.Positions) bus.Reader {
	t.Helper()
	r, err := b.Subscribe(busContext(t), topic, group, from)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// take reads n records and fails if more come with them or the offsets have gaps.
func take(t testing.TB, r bus.Reader, n int) []bus.Record {
	t.Helper()
	var records []bus.Record
	ctx := busContext(t)
	next := map[int32]int64{}
	for len(records) < n {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d records: %v", len(records), n, err)
		}
		if len(b.Records) == 0 || b.Skipped != 0 {
			t.Fatalf("batch has %d records, %d skipped", len(b.Records), b.Skipped)
		}
		for _, rec := range b.Records {
			if rec.Partition != b.Partition {
				t.Fatalf("record of partition %d in a batch of partition %d", rec.Partition, b.Partition)
			}
			if want, ok := next[rec.Partition]; ok && rec.Offset != want {
				t.Fatalf("partition %d: offset %d, want %d", rec.Partition, rec.Offset, want)
			}
			next[rec.Partition] = rec.Offset + 1
		}
		records = append(records, b.Records...)
	}
	if len(records) > n {
		t.Fatalf("%d records, want %d", len(records), n)
	}
	return records
}

// nothingMore checks that a reader has no record left.
func nothingMore(t testing.TB, r bus.Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if b, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("read %d records, error %v: want nothing", len(b.Records), err)
	}
}

func sameRecord(a, b bus.Record) bool {
	return a.Partition == b.Partition && a.Offset == b.Offset && a.At == b.At &&
		bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && slices.Equal(a.Headers, b.Headers)
}

func wantRecords(t testing.TB, got, want []bus.Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if !sameRecord(got[i], want[i]) {
			t.Fatalf("record %d:\n got %.200v\nwant %.200v", i, got[i], want[i])
		}
	}
}

func text(s string) bus.Record { return bus.Record{Value: []byte(s)} }

func texts(records []bus.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = string(r.Value)
	}
	return out
}

func busRoundTrip(t *testing.T, open OpenBus) {
	reopen := open(t, map[string]int{"a": 1, "b": 1})
	b := reopen()
	all := []bus.Record{
		{Value: []byte("plain")},
		{},
		{Key: []byte("k\x00\xff"), Value: []byte{0, 1, 2, 0xff}, At: 1_700_000_000_123},
		{At: -5, Value: []byte("before 1970")},
		{At: 1 << 50, Headers: []bus.Header{{Name: "project", Value: "default"}, {Name: "batch", Value: "1"}}, Value: []byte("x")},
		{At: 1, Headers: []bus.Header{{Name: "project", Value: "default"}, {Name: "batch", Value: "2"}}},
		{At: 2, Headers: []bus.Header{{Name: "", Value: ""}, {Name: "a", Value: "\xff\x00"}, {Name: "a", Value: "twice"}}},
		{Key: bytes.Repeat([]byte("K"), 300), Value: bytes.Repeat([]byte("v"), 200_000)},
	}
	before := kemi.MillisOf(time.Now())
	published := mustPublish(t, b, "a", slices.Clone(all)...)
	for i, r := range published {
		if r.Offset != published[0].Offset+int64(i) || r.Partition != 0 {
			t.Fatalf("record %d got partition %d and offset %d", i, r.Partition, r.Offset)
		}
		if want := all[i].At; want != 0 && r.At != want || want == 0 && (r.At < before || r.At > kemi.MillisOf(time.Now())) {
			t.Fatalf("record %d: At is %d", i, r.At)
		}
	}
	mustPublish(t, b, "b", text("elsewhere"))
	wantRecords(t, take(t, mustSubscribe(t, b, "a", "", nil), len(all)), published)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = reopen()
	defer b.Close()
	more := mustPublish(t, b, "a", text("after"))
	wantRecords(t, take(t, mustSubscribe(t, b, "a", "", nil), len(all)+1), append(published, more...))
	if more[0].Offset != published[len(all)-1].Offset+1 {
		t.Fatalf("offset after reopening is %d", more[0].Offset)
	}
}

func busRefuses(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 1})()
	ctx := busContext(t)
	if err := b.Publish(ctx, "nowhere", []bus.Record{text("x")}); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("unknown topic: %v", err)
	}
	if _, err := b.Subscribe(ctx, "nowhere", "g", nil); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("subscribe to unknown topic: %v", err)
	}
	if _, err := b.Spans(ctx, "nowhere"); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("spans of unknown topic: %v", err)
	}
	if err := b.Publish(ctx, "a", nil); err != nil {
		t.Errorf("no records: %v", err)
	}
	// All or nothing: the good records before the one that is too large are not there either.
	if err := b.Publish(ctx, "a", []bus.Record{text("good"), {Value: make([]byte, 9<<20)}}); !errors.Is(err, kemi.ErrTooLarge) {
		t.Errorf("large record: %v", err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Publish(canceled, "a", []bus.Record{text("x")}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if spans, err := b.Spans(ctx, "a"); err != nil || spans[0].First != spans[0].Next {
		t.Errorf("after refusals: %v, %v", spans, err)
	}
	r := mustSubscribe(t, b, "a", "g", nil)
	if err := r.Commit(ctx, bus.Positions{0: -1}); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("commit of a negative position: %v", err)
	}
	if err := r.Commit(ctx, bus.Positions{7: 0}); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("commit for a partition that is not there: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(ctx, "a", []bus.Record{text("late")}); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("publish after close: %v", err)
	}
	if _, err := b.Subscribe(ctx, "a", "g", nil); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("subscribe after close: %v", err)
	}
}

func busOrderOfKeys(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 4})()
	defer b.Close()
	const keys, rounds = 32, 20
	for i := range rounds {
		var records []bus.Record
		for k := range keys {
			records = append(records, bus.Record{Key: fmt.Appendf(nil, "key-%d", k), Value: fmt.Appendf(nil, "%d", i)})
		}
		for k, r := range mustPublish(t, b, "a", records...) {
			if string(r.Key) != fmt.Sprintf("key-%d", k) {
				t.Fatalf("record %d has key %s after publish", k, r.Key)
			}
		}
	}
	place, seen := map[string]int32{}, map[string]int{}
	for _, r := range take(t, mustSubscribe(t, b, "a", "", nil), keys*rounds) {
		k := string(r.Key)
		if p, ok := place[k]; ok && p != r.Partition {
			t.Fatalf("%s is in partitions %d and %d", k, p, r.Partition)
		}
		if string(r.Value) != fmt.Sprint(seen[k]) {
			t.Fatalf("%s: value %s, want %d", k, r.Value, seen[k])
		}
		place[k] = r.Partition
		seen[k]++
	}
	if used := len(slices.Compact(slices.Sorted(maps.Values(place)))); used < 2 {
		t.Errorf("%d keys use %d of 4 partitions", keys, used)
	}
	spans, err := b.Spans(busContext(t), "a")
	var n int64
	for _, s := range spans {
		n += s.Next - s.First
	}
	if err != nil || len(spans) != 4 || n != keys*rounds {
		t.Errorf("spans %v, error %v", spans, err)
	}
}

func busPositions(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 1})()
	defer b.Close()
	records := mustPublish(t, b, "a", text("0"), text("1"), text("2"), text("3"))
	mustPublish(t, b, "a", text("4"))
	first := records[0].Offset
	for i := range int64(5) {
		got := take(t, mustSubscribe(t, b, "a", "", bus.Positions{0: first + i}), int(5-i))
		if got[0].Offset != first+i || string(got[0].Value) != fmt.Sprint(i) {
			t.Fatalf("from %d: %v", first+i, texts(got))
		}
	}
	latest, err := bus.Latest(busContext(t), b, "a")
	if err != nil || latest[0] != first+5 {
		t.Fatalf("latest %v, %v", latest, err)
	}
	r := mustSubscribe(t, b, "a", "", latest)
	nothingMore(t, r)
	mustPublish(t, b, "a", text("5"))
	if got := take(t, r, 1); string(got[0].Value) != "5" {
		t.Fatalf("after latest: %v", texts(got))
	}
	ctx := busContext(t)
	for _, from := range []bus.Positions{{0: -1}, {0: first + 100}, {1: first}} {
		if _, err := b.Subscribe(ctx, "a", "", from); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("subscribe from %v: %v", from, err)
		}
	}
}

func busCommit(t *testing.T, open OpenBus) {
	reopen := open(t, map[string]int{"a": 2})
	b := reopen()
	ctx := busContext(t)
	for i := range 20 {
		mustPublish(t, b, "a", bus.Record{Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)})
	}
	spans, _ := b.Spans(ctx, "a")
	if spans[0].Next == spans[0].First || spans[1].Next == spans[1].First {
		t.Fatalf("the keys do not use both partitions: %v", spans)
	}
	r := mustSubscribe(t, b, "a", "one", nil)
	take(t, r, 20)
	// Not committed yet: another reader of the group begins at the oldest.
	take(t, mustSubscribe(t, b, "a", "one", nil), 20)
	if err := r.Commit(ctx, bus.Positions{0: spans[0].Next}); err != nil {
		t.Fatal(err)
	}
	left := int(spans[1].Next - spans[1].First)
	take(t, mustSubscribe(t, b, "a", "one", nil), left)
	take(t, mustSubscribe(t, b, "a", "other", nil), 20)
	take(t, mustSubscribe(t, b, "a", "one", bus.Positions{0: spans[0].Next - 1}), left+1)
	// A commit changes what it names and nothing else.
	if err := r.Commit(ctx, bus.Positions{1: spans[1].Next - 1}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = reopen()
	defer b.Close()
	got := take(t, mustSubscribe(t, b, "a", "one", nil), 1)
	if got[0].Partition != 1 || got[0].Offset != spans[1].Next-1 {
		t.Fatalf("after reopening: %v", got)
	}
	take(t, mustSubscribe(t, b, "a", "other", nil), 20)
}

func busWaits(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 2})()
	defer b.Close()
	r := mustSubscribe(t, b, "a", "g", nil)
	ctx, cancel := context.WithCancel(busContext(t))
	type result struct {
		b   bus.Batch
		err error
	}
	results := make(chan result)
	next := func() {
		b, err := r.Next(ctx)
		results <- result{b, err}
	}
	go next()
	// Commit works while Next waits.
	if err := r.Commit(busContext(t), bus.Positions{0: 0}); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, "a", text("x"))
	if got := <-results; got.err != nil || string(got.b.Records[0].Value) != "x" || got.b.Next() != got.b.Records[0].Offset+1 {
		t.Fatalf("got %v", got)
	}
	go next()
	cancel()
	if got := <-results; !errors.Is(got.err, context.Canceled) {
		t.Fatalf("after the context ended: %v", got)
	}
	// The reader goes on where it was.
	mustPublish(t, b, "a", text("y"))
	if got := take(t, r, 1); string(got[0].Value) != "y" {
		t.Fatalf("got %v", texts(got))
	}
}

func busEnds(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 1})()
	closed, waiting := mustSubscribe(t, b, "a", "", nil), mustSubscribe(t, b, "a", "", nil)
	errs := make(chan error, 2)
	for _, r := range []bus.Reader{closed, waiting} {
		go func() {
			_, err := r.Next(busContext(t))
			errs <- err
		}()
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, io.EOF) {
		t.Fatalf("after Close of the reader: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, io.EOF) {
		t.Fatalf("after Close of the bus: %v", err)
	}
	for range 2 {
		if _, err := closed.Next(busContext(t)); !errors.Is(err, io.EOF) {
			t.Fatalf("Next once more: %v", err)
		}
		if err := errors.Join(closed.Close(), b.Close()); err != nil {
			t.Fatalf("Close once more: %v", err)
		}
	}
}
