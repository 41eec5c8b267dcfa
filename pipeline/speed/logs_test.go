package speed

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// taking is a log store that notes what it is given.
type taking struct {
	store.LogStore
	calls  int
	bodies []string
	at     store.Position
	fail   int // the call that fails
}

func (s *taking) Index(_ context.Context, records []kemi.LogRecord, at store.Position) error {
	if s.calls++; s.calls == s.fail {
		return kemi.Errorf(kemi.ErrUnavailable, "full")
	}
	if at.Next <= s.at.Next {
		return fmt.Errorf("position %d after %d", at.Next, s.at.Next)
	}
	for i := range records {
		s.bodies = append(s.bodies, records[i].Body)
	}
	s.at = at
	return nil
}

// TestLogs: records reach the store in the order of the log, the small ones together, with the position after them; what cannot be read is left out.
func TestLogs(t *testing.T) {
	var want []string
	number := 0
	record := func(n int) bus.Record {
		rs := make([]kemi.LogRecord, n)
		for i := range rs {
			rs[i] = kemi.LogRecord{At: 1, Body: fmt.Sprint("line ", number)}
			want = append(want, rs[i].Body)
			number++
		}
		return codec.EncodeLogBatch("p", "", rs)[0]
	}
	broken := bus.Record{Value: []byte{0xff}}
	for name, c := range map[string]struct {
		records []bus.Record
		calls   int
	}{
		"small":              {[]bus.Record{record(1), record(10), record(3)}, 1},
		"one large":          {[]bus.Record{record(indexAlone)}, 1},
		"mixed":              {[]bus.Record{record(2), record(indexAlone), record(1), record(1), record(1000), record(1)}, 5},
		"broken at the end":  {[]bus.Record{record(indexAlone), broken}, 2},
		"broken in between":  {[]bus.Record{record(2), broken, record(2)}, 1},
		"broken alone":       {[]bus.Record{broken}, 1},
		"large at the end":   {[]bus.Record{record(2), record(500)}, 2},
		"large at the start": {[]bus.Record{record(500), record(2)}, 2},
	} {
		b := bus.Batch{Partition: 3}
		want = want[:0]
		for i, r := range c.records {
			r.Partition, r.Offset = 3, int64(100+i)
			if decoded, err := codec.DecodeLogs(&r); err == nil {
				for k := range decoded {
					want = append(want, decoded[k].Body)
				}
			}
			b.Records = append(b.Records, r)
		}
		s := &taking{at: store.Position{Next: 100}}
		if err := Logs(s, slog.New(slog.DiscardHandler))(t.Context(), b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if strings.Join(s.bodies, ",") != strings.Join(want, ",") || s.calls != c.calls || s.at != (store.Position{Partition: 3, Next: b.Next()}) {
			t.Errorf("%s: %d bodies of %d in %d calls, up to %+v", name, len(s.bodies), len(want), s.calls, s.at)
		}
	}
	b := bus.Batch{Records: []bus.Record{record(1000), record(1000)}}
	b.Records[1].Offset = 1
	if err := Logs(&taking{fail: 2}, slog.New(slog.DiscardHandler))(t.Context(), b); kemi.HTTPStatus(err) != 503 {
		t.Errorf("a store that is full: %v", err)
	}
}
