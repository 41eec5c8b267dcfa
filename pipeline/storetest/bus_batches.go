package storetest

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"kemi/pipeline/bus"
)

func busBatches(t *testing.T, open OpenBus) {
	reopen := open(t, map[string]int{"a": 1})
	b := reopen()
	var want []string
	for i := range 4 { // one publish that is far larger than a batch, several times
		var records []bus.Record
		for j := range 100 {
			v := bytes.Repeat([]byte{byte('a' + i)}, 40_000)
			records = append(records, bus.Record{Value: fmt.Appendf(v, "%d", j)})
		}
		mustPublish(t, b, "a", records...)
		want = append(want, texts(records)...)
	}
	large := bus.Record{Value: bytes.Repeat([]byte("L"), 5<<20)}
	mustPublish(t, b, "a", large)
	want = append(want, string(large.Value))
	check := func(b bus.Bus) {
		t.Helper()
		r := mustSubscribe(t, b, "a", "", nil)
		for n := 0; n < len(want); {
			batch, err := r.Next(busContext(t))
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			for _, rec := range batch.Records {
				if string(rec.Value) != want[n] {
					t.Fatalf("record %d is %.20q…, want %.20q…", n, rec.Value, want[n])
				}
				size += len(rec.Value)
				n++
			}
			if size > 5<<18 && len(batch.Records) > 1 {
				t.Fatalf("a batch of %d records has %d bytes", len(batch.Records), size)
			}
		}
	}
	check(b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = reopen()
	defer b.Close()
	check(b)
}

func busBytes(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 1})()
	defer b.Close()
	near := mustSubscribe(t, b, "a", "", nil)
	value := make([]byte, 1000)
	var got []bus.Record
	const n = 200
	for i := range n {
		copy(value, fmt.Sprintf("%06d", i))
		mustPublish(t, b, "a", bus.Record{Key: value[:6], Value: value})
		clear(value) // the publisher may reuse its bytes
		if i%2 == 0 {
			continue
		}
		got = append(got, take(t, near, 2)...)
	}
	got = append(got, take(t, mustSubscribe(t, b, "a", "", nil), n)...)
	for i, r := range got { // the reader may keep, and change, its own
		if want := fmt.Sprintf("%06d", i%n); string(r.Key) != want || string(r.Value[:6]) != want || len(r.Value) != 1000 {
			t.Fatalf("record %d has key %q and value %q…", i, r.Key, r.Value[:6])
		}
		_ = append(r.Key, "overwrite"...)
	}
}

// A reader that takes memory back may only use again what was given back: not another reader's, not an earlier batch.
func busRecycle(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 1})()
	defer b.Close()
	near := mustSubscribe(t, b, "a", "", nil)
	back, ok := near.(recycler)
	if !ok {
		return // not part of the contract
	}
	var want []string
	add := func(n int) {
		for range n {
			v := fmt.Sprintf("%06d%s", len(want), bytes.Repeat([]byte("x"), 9000))
			mustPublish(t, b, "a", text(v))
			want = append(want, v)
		}
	}
	add(400)
	far := mustSubscribe(t, b, "a", "", nil)
	farBack := far.(recycler)
	var kept []bus.Record
	var last bus.Batch
	checked := 0
	for i := 0; checked < len(want); i++ {
		if i < 20 {
			add(1) // some come from memory, some from disk
		}
		got, err := far.Next(busContext(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got.Records {
			if string(r.Value) != want[checked] {
				t.Fatalf("record %d is %.10q", checked, r.Value)
			}
			checked++
		}
		if i%3 == 0 {
			kept = append(kept, got.Records...)
			farBack.Recycle(last) // an earlier one: has no effect
			back.Recycle(got)     // another reader's
			farBack.Recycle(bus.Batch{Partition: 99})
			farBack.Recycle(bus.Batch{})
		} else {
			farBack.Recycle(got)
		}
		last = got
	}
	for _, r := range take(t, near, len(want)) {
		if string(r.Value) != want[r.Offset] {
			t.Fatalf("record %d is %.10q", r.Offset, r.Value)
		}
	}
	for _, r := range kept {
		if string(r.Value) != want[r.Offset] {
			t.Fatalf("record %d, which was kept, is %.10q now", r.Offset, r.Value)
		}
	}
}

func busLocal(t *testing.T, open OpenBus) {
	b := open(t, map[string]int{"a": 1})()
	defer b.Close()
	type decoded struct{ n int }
	near := mustSubscribe(t, b, "a", "", nil)
	for i := range 20 {
		mustPublish(t, b, "a", bus.Record{Value: fmt.Append(nil, i), Local: &decoded{i}}, text("none"))
	}
	for _, got := range [][]bus.Record{take(t, near, 40), take(t, mustSubscribe(t, b, "a", "", nil), 40)} {
		for i, r := range got {
			if r.Local == nil {
				continue // always allowed
			}
			if d, ok := r.Local.(*decoded); !ok || i%2 == 1 || fmt.Sprint(d.n) != string(r.Value) {
				t.Fatalf("record %d, %q, has Local %v", i, r.Value, r.Local)
			}
		}
	}
}

func busConcurrent(t *testing.T, open OpenBus) {
	reopen := open(t, map[string]int{"a": 3})
	b := reopen()
	const publishers, publishes, each = 8, 40, 5
	const total = publishers * publishes * each
	ctx := busContext(t)
	verify := func(records []bus.Record) error {
		next := map[string]int{}
		at := map[[2]int64]bool{}
		for _, r := range records {
			place := [2]int64{int64(r.Partition), r.Offset}
			if at[place] {
				return fmt.Errorf("partition %d offset %d comes twice", r.Partition, r.Offset)
			}
			at[place] = true
			if k := string(r.Key); string(r.Value) != fmt.Sprint(next[k]) {
				return fmt.Errorf("key %s: value %s, want %d", k, r.Value, next[k])
			}
			next[string(r.Key)]++
		}
		return nil
	}
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for i := range publishers {
		wg.Go(func() {
			for j := range publishes {
				records := make([]bus.Record, each)
				for k := range records {
					records[k] = bus.Record{Key: fmt.Appendf(nil, "p%d", i), Value: fmt.Append(nil, j*each+k)}
				}
				if err := b.Publish(ctx, "a", records); err != nil {
					errs <- err
				}
			}
		})
	}
	for i := range 3 {
		wg.Go(func() {
			r, err := b.Subscribe(ctx, "a", fmt.Sprintf("g%d", i), nil)
			if err != nil {
				errs <- err
				return
			}
			defer r.Close()
			var got []bus.Record
			for len(got) < total {
				batch, err := r.Next(ctx)
				if err != nil {
					errs <- err
					return
				}
				got = append(got, batch.Records...)
				if err := r.Commit(ctx, bus.Positions{batch.Partition: batch.Next()}); err != nil {
					errs <- err
				}
			}
			if err := verify(got); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = reopen()
	defer b.Close()
	if err := verify(take(t, mustSubscribe(t, b, "a", "", nil), total)); err != nil {
		t.Fatal(err)
	}
	nothingMore(t, mustSubscribe(t, b, "a", "g0", nil))
}
