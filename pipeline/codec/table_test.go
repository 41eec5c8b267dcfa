package codec

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"kemi"
	"kemi/pipeline/bus"
)

func pointAt(at kemi.Millis, pairs ...string) kemi.Points {
	return kemi.Points{Labels: kemi.LabelsOf(pairs...), At: []kemi.Millis{at}, Values: []float64{float64(at)}}
}

func receive(t *testing.T, table *Table, project string, v1 bool, points ...kemi.Points) *Incoming {
	t.Helper()
	e := &Encoder{V1: v1}
	for _, p := range points {
		e.AddPoints(p)
	}
	in, err := table.Receive(project, !v1, e.Encode(), testLimits())
	if err != nil {
		t.Fatal(err)
	}
	return in
}

var nowMillis = kemi.MillisOf(testNow)

// A series is one entry, whichever version it comes in, and in whatever order; but each project has its own.
func TestTableOneEntryASeries(t *testing.T) {
	table := NewTable(nil, fixedNow)
	a, b, c := pointAt(nowMillis, "__name__", "a", "x", "1"), pointAt(nowMillis, "__name__", "b", "x", "1"), pointAt(nowMillis, "__name__", "c")
	first := table.BatchOf("p", []kemi.Points{a, b, c})
	for i, in := range []*Incoming{
		receive(t, table, "p", true, a, b, c), receive(t, table, "p", false, a, b, c), receive(t, table, "p", true, a, b, c), receive(t, table, "p", false, a, b, c),
	} {
		if !slices.Equal(in.Batch.Series, first.Series) {
			t.Fatalf("%d: other entries", i)
		}
	}
	for _, v1 := range []bool{true, false} {
		in := receive(t, table, "p", v1, c, a, a, b, c)
		if want := []*Series{first.Series[2], first.Series[0], first.Series[0], first.Series[1], first.Series[2]}; !slices.Equal(in.Batch.Series, want) {
			t.Fatalf("in another order, v1 %t: other entries", v1)
		}
	}
	if n, size := table.Len(); n != 3 || size <= 0 {
		t.Fatalf("%d series of %d bytes", n, size)
	}
	other := receive(t, table, "q", true, a, b, c)
	for i, s := range other.Batch.Series {
		if slices.Contains(first.Series, s) {
			t.Fatalf("series %d is shared by two projects", i)
		}
	}
	if other.Batch.Project != "q" || other.Batch.Labels(0).String() != `{__name__="a", x="1"}` {
		t.Fatalf("%+v", other.Batch)
	}
}

// A prefix of the bytes of what followed the last time is not that series.
func TestTablePrediction(t *testing.T) {
	table := NewTable(nil, fixedNow)
	a := pointAt(nowMillis, "__name__", "a")
	short, long := pointAt(nowMillis, "__name__", "b", "c", "d"), pointAt(nowMillis, "__name__", "b", "c", "d", "e", "f")
	for _, v1 := range []bool{true, false} {
		for range 3 {
			for _, second := range []kemi.Points{short, long, long, short} {
				in := receive(t, table, "p", v1, a, second)
				if got := in.Batch.Labels(1).String(); got != second.Labels.String() {
					t.Fatalf("%s, want %s", got, second.Labels)
				}
			}
		}
	}
}

func TestTableForgets(t *testing.T) {
	now := testNow
	table := NewTable(nil, func() time.Time { return now })
	var points []kemi.Points
	for i := range 500 {
		points = append(points, pointAt(nowMillis, "__name__", "m", "host", fmt.Sprint(i)))
	}
	table.BatchOf("p", points)
	receive(t, table, "p", false, points...) // second keys to the same entries
	if n, _ := table.Len(); n != 500 {
		t.Fatalf("%d series", n)
	}
	// Another project's batches go on, and ten series of this one.
	used := table.BatchOf("p", points[:10]).Series
	for range 400 {
		now = now.Add(time.Minute)
		table.BatchOf("q", points[:3])
		if got := table.BatchOf("p", points[:10]).Series; !slices.Equal(got, used) {
			t.Fatal("a series that is in use was forgotten")
		}
	}
	if n, _ := table.Len(); n != 13 {
		t.Fatalf("%d series are known after hours of rest, want 13", n)
	}
	sp := table.space("p")
	if len(sp.hosts) != 10 {
		t.Fatalf("%d hosts", len(sp.hosts))
	}
	for i := range sp.shards {
		if p := sp.shards[i].slots.Load(); p != nil && len(*p) > 64 {
			t.Fatalf("shard %d keeps %d slots", i, len(*p))
		}
	}
	now = now.Add(24 * time.Hour)
	for range 400 {
		now = now.Add(time.Minute)
		table.BatchOf("r", nil)
	}
	if n, size := table.Len(); n != 0 || size != 0 {
		t.Fatalf("%d series, %d bytes", n, size)
	}
}

// A full table still decodes; it only remembers nothing new.
func TestTableFull(t *testing.T) {
	table := NewTable(nil, fixedNow)
	table.maxBytes = 5000
	var points []kemi.Points
	for i := range 100 {
		points = append(points, pointAt(nowMillis, "__name__", "m", "host", fmt.Sprint(i)))
	}
	for _, v1 := range []bool{true, false, true, false} {
		in := receive(t, table, "p", v1, points...)
		for i := range points {
			if got := in.Batch.Labels(i).String(); got != points[i].Labels.String() || in.Samples != 100 {
				t.Fatalf("%d: %s", i, got)
			}
		}
		if n, size := table.Len(); size > 5000 || n == 0 || n > 32 {
			t.Fatalf("%d series, %d bytes", n, size)
		}
		if n := len(table.space("p").hosts); n > 32 {
			t.Fatalf("%d hosts", n)
		}
	}
}

type changingIMS struct {
	mu    sync.Mutex
	epoch uint64
	owner map[string]string
}

func (c *changingIMS) Epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func (c *changingIMS) Enrich(project, host string) kemi.Labels {
	c.mu.Lock()
	defer c.mu.Unlock()
	return kemi.LabelsOf("owner", c.owner[project+"/"+host], "zone", c.owner["zone"])
}

func (c *changingIMS) set(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner[key] = value
	c.epoch++
}

func TestEnrich(t *testing.T) {
	ims := &changingIMS{owner: map[string]string{"p/web1": "kim"}}
	table := NewTable(ims, fixedNow)
	points := []kemi.Points{
		pointAt(nowMillis, "__name__", "m", "host", "web1"), pointAt(nowMillis, "__name__", "m", "host", "web2"), pointAt(nowMillis, "__name__", "m"),
		pointAt(nowMillis, "__name__", "m", "host", "web1", "owner", "lee"),
	}
	names := func(b *SeriesBatch) string {
		var out []string
		for i := range b.Series {
			out = append(out, b.Labels(i).String())
		}
		return strings.Join(out, " ")
	}
	// A replay, by a table that knows another inventory or by the same, gives what was given then.
	replay := func(in *Incoming, want string) {
		t.Helper()
		for _, other := range []*Table{table, NewTable(nil, fixedNow), NewTable(&changingIMS{owner: map[string]string{"p/web1": "nobody", "p/web2": "nobody"}}, fixedNow)} {
			r := in.Record
			r.Local = nil
			b, err := other.Decode(&r)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(b); got != want {
				t.Fatalf("replayed as %s, want %s", got, want)
			}
		}
		if local, err := table.Decode(&in.Record); err != nil || local != in.Batch {
			t.Fatal("the batch at hand is not used")
		}
	}
	for _, v1 := range []bool{true, false} {
		ims.set("p/web1", "kim")
		ims.set("p/web2", "")
		first := receive(t, table, "p", v1, points...)
		want1 := `{__name__="m", host="web1", owner="kim"} {__name__="m", host="web2"} {__name__="m"} {__name__="m", host="web1", owner="lee"}`
		if got := names(first.Batch); got != want1 {
			t.Fatalf("%s, want %s", got, want1)
		}
		if got := first.Record.Header(HeaderEnrich); got != `{"web1":{"owner":"kim"}}` {
			t.Fatalf("header %s", got)
		}
		first.Batch.Series[0].Ref.Store(7)

		ims.set("p/web1", "park")
		ims.set("p/web2", "choi")
		second := receive(t, table, "p", v1, points...)
		want2 := `{__name__="m", host="web1", owner="park"} {__name__="m", host="web2", owner="choi"} {__name__="m"} {__name__="m", host="web1", owner="lee"}`
		if got := names(second.Batch); got != want2 {
			t.Fatalf("%s, want %s", got, want2)
		}
		// What the store knows of the series with the old labels says nothing of the one with the new.
		if second.Batch.Series[0] == first.Batch.Series[0] || second.Batch.Series[0].Ref.Load() == 7 {
			t.Fatal("a series whose labels changed kept its entry")
		}
		if second.Batch.Series[2] != first.Batch.Series[2] {
			t.Fatal("a series whose labels did not change lost its entry")
		}
		ims.set("p/web1", "kim")
		ims.set("p/web2", "")
		third := receive(t, table, "p", v1, points...)
		if third.Batch.Series[0] != first.Batch.Series[0] {
			t.Fatal("back to the old labels, but not to the old entry")
		}
		replay(first, want1)
		replay(second, want2)
		replay(third, want1)
		first.Batch.Series[0].Ref.Store(0)
	}
	// Other projects' hosts have the same names and nothing else.
	if in := receive(t, table, "q", true, points...); in.Record.Header(HeaderEnrich) != "" || names(in.Batch) != `{__name__="m", host="web1"} {__name__="m", host="web2"} {__name__="m"} {__name__="m", host="web1", owner="lee"}` {
		t.Fatalf("%s %s", in.Record.Header(HeaderEnrich), names(in.Batch))
	}
}

func TestDecodeRefusesRecords(t *testing.T) {
	table := NewTable(nil, fixedNow)
	good, _ := EncodeRemoteWrite([]kemi.Points{pointAt(1, "__name__", "m")})
	record := func(contentType, encoding string, value []byte, more ...bus.Header) *bus.Record {
		return &bus.Record{Partition: 3, Offset: 9, Value: value, Headers: append([]bus.Header{{Name: HeaderProject, Value: "p"}, {Name: HeaderType, Value: contentType}, {Name: HeaderEncoding, Value: encoding}}, more...)}
	}
	for name, c := range map[string]struct {
		r    *bus.Record
		says string
	}{
		"encoding": {record(RemoteWrite2, "zstd", good), `content-encoding "zstd": must be snappy`},
		"type":     {record("text/plain", "snappy", good), `content-type "text/plain"`},
		"snappy":   {record(RemoteWrite2, "snappy", good[:len(good)-1]), "broken snappy"},
		"bomb":     {record(RemoteWrite2, "snappy", []byte{255, 255, 255, 255, 7, 0}), "cannot unpack"},
		"protobuf": {record(RemoteWrite1, "snappy", snappy.Encode(nil, []byte{10, 5, 10})), "broken protobuf"},
		"enrich":   {record(RemoteWrite2, "snappy", good, bus.Header{Name: HeaderEnrich, Value: `["x"]`}), "header enrich"},
	} {
		_, err := table.Decode(c.r)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "3/9") {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	b, err := table.Decode(record(RemoteWrite2, "snappy", good))
	if err != nil || len(b.At) != 1 {
		t.Fatal(err)
	}
}

// Protobuf lets fields stand in any order, repeat, and be unknown.
func TestDecodeOddOrder(t *testing.T) {
	sample := func(at int64) []byte {
		b, _ := (&prompb.Sample{Value: 1, Timestamp: at}).Marshal()
		return appendBytesField(nil, 2, b)
	}
	at := testNow.UnixMilli()
	odd := slices.Concat(sample(at), appendRawLabel(nil, "__name__", "m"), sample(at+1), appendUvarintField(nil, 99, 7), appendRawLabel(nil, "a", "b"), sample(at+2), sample(5))
	plain := slices.Concat(appendRawLabel(nil, "__name__", "n"), sample(at))
	body := slices.Concat(appendBytesField(nil, 1, plain), appendUvarintField(nil, 77, 3), appendBytesField(nil, 1, odd), appendBytesField(nil, 1, plain))
	table := NewTable(nil, fixedNow)
	for range 2 {
		in, err := table.Receive("p", false, snappy.Encode(nil, body), testLimits())
		if err != nil {
			t.Fatal(err)
		}
		if in.Samples != 5 || in.Refused.Samples != 1 || len(in.Batch.Series) != 3 || in.Batch.Labels(1).String() != `{__name__="m", a="b"}` {
			t.Fatalf("%+v", flatten(in.Batch))
		}
		r := in.Record
		r.Local = nil
		b, err := NewTable(nil, fixedNow).Decode(&r)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "replay", flatten(b), flatten(in.Batch))
	}
}

// A draft of version 2.0 had the start of all samples of a series in a field of its own.
func TestDecodeDraftStart(t *testing.T) {
	var e Encoder
	e.AddPoints(pointAt(nowMillis, "__name__", "m"))
	plain, _ := snappy.Decode(nil, e.Encode())
	i := strings.LastIndexByte(string(plain), 5<<3|pbBytes)
	series := appendUvarintField(slices.Clone(plain[i+2:]), 6, 1234)
	b, err := NewTable(nil, fixedNow).Decode(recordOf(RemoteWrite2, appendBytesField(slices.Clone(plain[:i]), 5, series)))
	if err != nil {
		t.Fatal(err)
	}
	if b.Complex == nil || !slices.Equal(b.Complex.Starts, []kemi.Millis{1234}) {
		t.Fatalf("%+v", b.Complex)
	}
}

// Known series cost no allocation each.
func TestReceiveAllocates(t *testing.T) {
	for _, v1 := range []bool{true, false} {
		body := requests(2000, 1, v1)[0]
		table := NewTable(fakeIMS{epoch: 1}, fixedNow)
		// The least of several: the race detector makes sync.Pool forget at random, and so does the garbage collector.
		n := float64(len(body))
		for range 20 {
			n = min(n, testing.AllocsPerRun(1, func() {
				if _, err := table.Receive("p", !v1, body, testLimits()); err != nil {
					t.Fatal(err)
				}
			}))
		}
		if n > 40 {
			t.Errorf("v1 %t: %v allocations for 2000 known series", v1, n)
		}
	}
}

// Many decoders at once, with an inventory that changes under them and a table that forgets.
func TestTableConcurrent(t *testing.T) {
	var clock sync.Mutex
	now := testNow
	ims := &changingIMS{owner: map[string]string{}}
	table := NewTable(ims, func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		now = now.Add(3 * time.Second)
		return now
	})
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for n := range 150 {
				var points []kemi.Points
				for i := range 40 {
					points = append(points, pointAt(nowMillis, "__name__", "m", "host", fmt.Sprint(i%7), "i", fmt.Sprint((i+n)%90)))
				}
				if g == 0 {
					ims.set(fmt.Sprintf("p/%d", n%7), fmt.Sprint(n%3))
				}
				e := &Encoder{V1: g%2 == 0}
				for _, p := range points {
					e.AddPoints(p)
				}
				l := testLimits()
				l.Newest = math.MaxInt64
				in, err := table.Receive("p", g%2 != 0, e.Encode(), l)
				if err != nil {
					t.Error(err)
					return
				}
				r := in.Record
				r.Local = nil
				b, err := table.Decode(&r)
				if err != nil {
					t.Error(err)
					return
				}
				for i := range points {
					got, again := in.Batch.Labels(i), b.Labels(i)
					if got.Compare(again) != 0 {
						t.Errorf("%s live, %s in the replay", got, again)
					}
					if got.With("owner", "").Compare(points[i].Labels) != 0 {
						t.Errorf("%s, want %s", got, points[i].Labels)
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestMetadataOutlivesItsBody decodes one body after another: the memory of the first is used again, and its metadata stay what they were.
func TestMetadataOutlivesItsBody(t *testing.T) {
	table := NewTable(nil, time.Now)
	var first *SeriesBatch
	for i := range 20 {
		var e Encoder
		name := fmt.Sprintf("metric_%02d_total", i)
		e.Describe(Metadata{Metric: name, Type: "counter", Help: fmt.Sprint("Help of ", i), Unit: fmt.Sprint("unit", i)})
		e.Add(kemi.LabelsOf(kemi.MetricName, name), []kemi.Millis{1000}, []float64{1})
		in, err := table.Receive("p", true, e.Encode(), buildLimits())
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = in.Batch
		}
		if len(in.Batch.Complex.Metadata) != 1 {
			t.Fatalf("body %d: metadata %v", i, in.Batch.Complex.Metadata)
		}
	}
	if got, want := first.Complex.Metadata[0], (Metadata{Metric: "metric_00_total", Type: "counter", Help: "Help of 0", Unit: "unit0"}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
