package codec_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	logspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/wal"
)

const (
	trace = "0af7651916cd43dd8448eb211c80319c"
	span  = "b7ad6b7169203331"
)

func sample() []kemi.LogRecord {
	pay := kemi.LabelsOf("host", "web01", "service", "pay")
	return []kemi.LogRecord{
		{At: 1_700_000_000_123_456_789, Severity: kemi.SeverityError, Stream: pay, Attrs: kemi.LabelsOf("status", "500", "user", "김철수"), Body: "결제 실패", TraceID: trace, SpanID: span},
		{At: 1_700_000_000_123_456_790, Stream: pay, Body: ""},
		{At: -5, Severity: 24, Stream: kemi.LabelsOf("host", "db\xff"), Attrs: kemi.LabelsOf("raw", "\x00\xfe"), Body: "nul \x00 and \xff\xfe end"},
		{At: math.MaxInt64, Body: strings.Repeat("x", 1<<20)},
		{Stream: pay, Body: "again"},
	}
}

// onDisk is the record as a reader gets it that comes later.
func onDisk(r bus.Record) *bus.Record {
	r.Local = nil
	return &r
}

func decode(t testing.TB, r *bus.Record) []kemi.LogRecord {
	t.Helper()
	out, err := codec.DecodeLogs(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func bare(rs []kemi.LogRecord) []kemi.LogRecord {
	rs = slices.Clone(rs)
	for i := range rs {
		rs[i].ID, rs[i].Project = "", ""
		if len(rs[i].Stream) == 0 {
			rs[i].Stream = nil
		}
		if len(rs[i].Attrs) == 0 {
			rs[i].Attrs = nil
		}
	}
	return rs
}

func TestLogsComeBack(t *testing.T) {
	in := sample()
	rec := codec.EncodeLogs("shop", "", in)
	rec.Partition, rec.Offset = 3, 0x1b
	if rec.Local == nil {
		t.Fatal("readers in this process get nothing decoded")
	}
	got := decode(t, onDisk(rec))
	if !reflect.DeepEqual(bare(got), bare(in)) {
		t.Fatalf("got  %+v\nwant %+v", bare(got), in)
	}
	if local := decode(t, &rec); !reflect.DeepEqual(local, got) {
		t.Fatalf("the local form differs:\n%+v\n%+v", local, got)
	}
	if in[0].ID != "" {
		t.Error("decoding changed what the publisher has")
	}
	if got[0].Project != "shop" || got[0].ID != "3-0000000001b-00000" || got[4].ID != "3-0000000001b-00004" {
		t.Errorf("IDs %s, %s of %s", got[0].ID, got[4].ID, got[0].Project)
	}
	if string(rec.Key) != "shop\x00web01" || rec.Header(codec.HeaderProject) != "shop" || rec.Header(codec.HeaderType) != codec.LogsType {
		t.Errorf("key %q, headers %v", rec.Key, rec.Headers)
	}
}

// TestLogsPacked: what is small or does not pack lies as it is; a record without content-encoding is read as it was written before there was one; a value that is broken,
// or says that it unpacks to more than it can, is an error that takes no memory.
func TestLogsPacked(t *testing.T) {
	noise := make([]byte, 4000)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for name, c := range map[string]struct {
		body string
		want string
	}{"small": {"a line", ""}, "noise": {string(noise), ""}, "text": {strings.Repeat("a line; ", 100), codec.EncodingSnappy}} {
		in := []kemi.LogRecord{{At: 1, Body: c.body}}
		rec := codec.EncodeLogs("p", "", in)
		if got := rec.Header(codec.HeaderEncoding); got != c.want {
			t.Errorf("%s: content-encoding %q, want %q", name, got, c.want)
		}
		old := bus.Record{Value: codec.EncodeOTLPLogs(in), Headers: []bus.Header{{Name: codec.HeaderProject, Value: "p"}}}
		if got, want := decode(t, onDisk(rec)), decode(t, &old); !reflect.DeepEqual(got, want) || got[0].Body != c.body {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	good := codec.EncodeLogs("p", "", []kemi.LogRecord{{At: 1, Body: strings.Repeat("a line; ", 100)}})
	for name, value := range map[string][]byte{
		"nothing":              {},
		"half":                 good.Value[:len(good.Value)/2],
		"a gigabyte, it says":  append(binary.AppendUvarint(nil, 1<<30), good.Value[2:]...),
		"a hundred times":      append(binary.AppendUvarint(nil, uint64(100*len(good.Value))), good.Value[2:]...),
		"not the size it says": append(binary.AppendUvarint(nil, 801), good.Value[2:]...),
	} {
		bad := bus.Record{Value: value, Headers: good.Headers}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := codec.DecodeLogs(&bad)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), "logs at 0/0: ") {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: took %d bytes", name, n)
		}
	}
	other := bus.Record{Value: good.Value, Headers: []bus.Header{{Name: codec.HeaderEncoding, Value: "zstd"}}}
	if _, err := codec.DecodeLogs(&other); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), `"zstd"`) {
		t.Errorf("another encoding: %v", err)
	}
}

// TestLogsShared: readers in this process get the records of a batch themselves, each with its ID, whoever comes first.
func TestLogsShared(t *testing.T) {
	want := sample()
	recs := codec.EncodeLogBatch("p", "", sample())
	if len(recs) != 3 { // the long one stands alone
		t.Fatalf("%d records", len(recs))
	}
	n := 0
	for i := range recs {
		recs[i].Partition, recs[i].Offset = 1, int64(10+i)
		got := make([][]kemi.LogRecord, 4)
		var readers sync.WaitGroup
		for k := range got {
			readers.Go(func() { got[k], _ = codec.DecodeLogs(&recs[i]) })
		}
		readers.Wait()
		disk := decode(t, onDisk(recs[i]))
		for _, g := range got {
			if !reflect.DeepEqual(bare(g), bare(want[n:n+len(g)])) || &g[0] != &got[0][0] || cap(g) > len(g) {
				t.Fatalf("record %d: got %+v", i, g)
			}
			for k := range g {
				if g[k].ID != disk[k].ID || g[k].Project != "p" {
					t.Errorf("record %d: ID %s of %s, want %s", i, g[k].ID, g[k].Project, disk[k].ID)
				}
			}
		}
		n += len(disk)
	}
	if n != len(want) {
		t.Errorf("%d records, want %d", n, len(want))
	}
}

// TestLogBatchIDs: how a batch is cut into records changes neither the records nor their IDs.
func TestLogBatchIDs(t *testing.T) {
	var in []kemi.LogRecord
	for i := range 300 {
		in = append(in, kemi.LogRecord{At: kemi.Nanos(i + 1), Stream: kemi.LabelsOf("app", fmt.Sprint(i/100)), Body: strings.Repeat("y", 10_000)})
	}
	whole := codec.EncodeLogs("p", "agent-7", in)
	want := decode(t, onDisk(whole))
	var got []kemi.LogRecord
	recs := codec.EncodeLogBatch("p", "agent-7", in)
	if len(recs) != 3 {
		t.Errorf("%d records", len(recs))
	}
	for i := range recs {
		if n := len(recs[i].Value); n > 1<<20+1000 {
			t.Errorf("record %d has %d bytes", i, n)
		}
		got = append(got, decode(t, onDisk(recs[i]))...)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatal("the records of the pieces differ from those of the whole")
	}
	if want[299].ID != "agent-7~0012b" || !slices.IsSortedFunc(got, func(a, b kemi.LogRecord) int { return strings.Compare(a.ID, b.ID) }) {
		t.Errorf("last ID %s, or not ascending", want[299].ID)
	}
	if recs := codec.EncodeLogBatch("p", "", nil); len(recs) != 0 {
		t.Errorf("nothing gives %d records", len(recs))
	}
}

// TestLogsAgainstOTLP: OpenTelemetry's own library reads what we write.
func TestLogsAgainstOTLP(t *testing.T) {
	rec := codec.EncodeLogs("shop", "", sample())
	if enc := rec.Header(codec.HeaderEncoding); enc != codec.EncodingSnappy {
		t.Fatalf("content-encoding %q", enc)
	}
	plain, err := snappy.Decode(nil, rec.Value) // another one's library
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain, codec.EncodeOTLPLogs(sample())) {
		t.Error("what is packed differs from what is not")
	}
	var req logspb.ExportLogsServiceRequest
	if err := proto.Unmarshal(plain, &req); err != nil {
		t.Fatal(err)
	}
	if len(req.ResourceLogs) != 4 || len(req.ResourceLogs[0].ScopeLogs[0].LogRecords) != 2 {
		t.Fatalf("records of one stream are not together: %d groups", len(req.ResourceLogs))
	}
	r := req.ResourceLogs[0].ScopeLogs[0].LogRecords[0]
	if r.Body.GetStringValue() != "결제 실패" || r.SeverityNumber != otlp.SeverityNumber_SEVERITY_NUMBER_ERROR || fmt.Sprintf("%x", r.TraceId) != trace ||
		fmt.Sprintf("%x", r.SpanId) != span || r.TimeUnixNano != 1_700_000_000_123_456_789 || r.Attributes[1].Value.GetStringValue() != "김철수" {
		t.Errorf("OpenTelemetry reads %v", r)
	}
	if a := req.ResourceLogs[0].Resource.Attributes; len(a) != 2 || a[1].Key != "service" || a[1].Value.GetStringValue() != "pay" {
		t.Errorf("resource %v", a)
	}
	if b := req.ResourceLogs[1].ScopeLogs[0].LogRecords[0].Body.GetBytesValue(); string(b) != "nul \x00 and \xff\xfe end" {
		t.Errorf("bytes %q", b)
	}
	// What it writes again is, to us, the same.
	again, err := proto.Marshal(&req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := codec.DecodeOTLPLogs(again)
	if err != nil || !reflect.DeepEqual(got, bare(sample())) {
		t.Errorf("%v: %+v", err, got)
	}
}

func str(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}
func kv(k string, v *common.AnyValue) *common.KeyValue { return &common.KeyValue{Key: k, Value: v} }
func num(i int64) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: i}}
}
func double(f float64) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: f}}
}
func array(vs ...*common.AnyValue) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: vs}}}
}
func object(kvs ...*common.KeyValue) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_KvlistValue{KvlistValue: &common.KeyValueList{Values: kvs}}}
}

// TestForeignLogs reads what other senders write.
func TestForeignLogs(t *testing.T) {
	yes := &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}}
	raw := &common.AnyValue{Value: &common.AnyValue_BytesValue{BytesValue: []byte("\xff")}}
	req := &logspb.ExportLogsServiceRequest{ResourceLogs: []*otlp.ResourceLogs{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{kv("service.name", str("cart")), kv("host.name", str("h1")), kv("empty", str(""))}},
		ScopeLogs: []*otlp.ScopeLogs{{
			Scope: &common.InstrumentationScope{Name: "lib", Version: "1.2", Attributes: []*common.KeyValue{kv("sa", num(1))}},
			LogRecords: []*otlp.LogRecord{
				{ObservedTimeUnixNano: 77, SeverityText: "Warning", Body: object(kv("msg", str("hi \"there\"")), kv("n", array(num(-1), double(1.5), double(math.Inf(1)), yes, raw, nil))), EventName: "ev", TraceId: []byte("short")},
				{TimeUnixNano: 5, SeverityNumber: 99, SeverityText: "odd", Body: num(42), Attributes: []*common.KeyValue{
					kv("z", double(0.25)), kv("a", yes), kv("b", raw), kv("list", array(str("x"), str("y"))), kv("map", object(kv("k", object()))), kv("z", num(9)), kv("none", nil),
				}, TraceId: make([]byte, 16)},
				{},
			},
		}, {LogRecords: []*otlp.LogRecord{{TimeUnixNano: 6}}}},
	}, {}}}
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := codec.DecodeOTLPLogs(b)
	if err != nil {
		t.Fatal(err)
	}
	stream := kemi.LabelsOf("host.name", "h1", "service.name", "cart")
	want := []kemi.LogRecord{
		{At: 77, Severity: kemi.SeverityWarn, Stream: stream, Body: `{"msg":"hi \"there\"","n":[-1,1.5,"+Inf",true,"/w==",null]}`, Attrs: kemi.LabelsOf("event.name", "ev", "scope.name", "lib", "scope.version", "1.2", "sa", "1")},
		{At: 5, Stream: stream, Body: "42", Attrs: kemi.LabelsOf("a", "true", "b", "\xff", "level", "odd", "list", `["x","y"]`, "map", `{"k":{}}`, "scope.name", "lib", "scope.version", "1.2", "sa", "1", "z", "9")},
		{Stream: stream, Attrs: kemi.LabelsOf("scope.name", "lib", "scope.version", "1.2", "sa", "1")},
		{At: 6, Stream: stream},
	}
	if len(got) != len(want) {
		t.Fatalf("%d records", len(got))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("record %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

func TestBadLogs(t *testing.T) {
	good := codec.EncodeLogs("p", "", sample()[:3])
	nested := str("x")
	for range 40 {
		nested = array(nested)
	}
	deep, _ := proto.Marshal(&logspb.ExportLogsServiceRequest{ResourceLogs: []*otlp.ResourceLogs{{ScopeLogs: []*otlp.ScopeLogs{{LogRecords: []*otlp.LogRecord{{Body: nested}}}}}}})
	for name, r := range map[string]bus.Record{
		"cut off":          {Value: good.Value[:len(good.Value)-3]},
		"no message":       {Value: []byte("not protobuf at all")},
		"group":            {Value: []byte{0x0b, 0x0c}},
		"field 0":          {Value: []byte{0x02, 0x00}},
		"endless varint":   {Value: []byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")},
		"too deep":         {Value: deep},
		"bad first":        {Value: good.Value, Headers: []bus.Header{{Name: codec.HeaderFirst, Value: "x"}}},
		"unknown encoding": {Value: good.Value, Headers: []bus.Header{{Name: codec.HeaderEncoding, Value: "br"}}},
	} {
		if got, err := codec.DecodeLogs(&r); err == nil || kemi.HTTPStatus(err) != 400 {
			t.Errorf("%s: %v, %d records", name, err, len(got))
		}
	}
	// Names and IDs that the format cannot hold.
	odd := codec.EncodeLogs("p", "", []kemi.LogRecord{{Attrs: kemi.LabelsOf("a\xffb", "v"), TraceID: "not hex", SpanID: strings.Repeat("0", 16), Severity: 200}})
	got := decode(t, &odd)
	if want := (kemi.LogRecord{ID: "0-00000000000-00000", Project: "p", Attrs: kemi.LabelsOf("a\ufffdb", "v")}); !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %+v", got[0])
	}
}

// FuzzLogsComeBack: whatever the bytes, they come back, in the local form too, and OpenTelemetry's library can read them.
func FuzzLogsComeBack(f *testing.F) {
	f.Add("body", "host", "h1", "k", "v", trace, int64(1), uint8(9))
	f.Add("\xff\x00", "", "", "\xff", "\xfe", "x", int64(-1), uint8(200))
	f.Fuzz(func(t *testing.T, body, sk, sv, ak, av, id string, at int64, severity uint8) {
		in := []kemi.LogRecord{
			{At: kemi.Nanos(at), Severity: kemi.Severity(severity), Stream: kemi.LabelsOf(sk, sv, "x", "y"), Attrs: kemi.LabelsOf(ak, av), Body: body, TraceID: id, SpanID: id},
			{At: 1, Stream: kemi.LabelsOf(sk, sv, "x", "y"), Body: av},
		}
		rec := codec.EncodeLogs("p", "b", in)
		if err := proto.Unmarshal(rec.Value, &logspb.ExportLogsServiceRequest{}); err != nil {
			t.Fatal(err)
		}
		got := decode(t, onDisk(rec))
		if !reflect.DeepEqual(bare(got), bare(decode(t, &rec))) {
			t.Fatalf("the local form differs: %+v %+v", got, decode(t, &rec))
		}
		if len(got) != 2 || got[0].Body != body || got[1].Body != av || got[0].At != kemi.Nanos(at) {
			t.Fatalf("got %+v", got)
		}
		if rec.Local != nil && !reflect.DeepEqual(bare(got), bare(in)) {
			t.Fatalf("got %+v\nwant %+v", got, in)
		}
	})
}

// FuzzDecodeLogs: what can be read can be written, and gives the same again; nothing panics.
func FuzzDecodeLogs(f *testing.F) {
	f.Add(codec.EncodeOTLPLogs(sample()[:3]))
	f.Add([]byte("\x0a\x02\x12\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := codec.DecodeOTLPLogs(b)
		if err != nil {
			return
		}
		again, err := codec.DecodeOTLPLogs(codec.EncodeOTLPLogs(got))
		if err != nil || len(again) != len(got) {
			t.Fatalf("%v: %d of %d", err, len(again), len(got))
		}
		for i := range got {
			if again[i].Body != got[i].Body || again[i].At != got[i].At || len(again[i].Attrs) > len(got[i].Attrs) {
				t.Fatalf("record %d: %+v, was %+v", i, again[i], got[i])
			}
		}
	})
}

// corpus is n log lines of several streams, about 170 bytes each, a fifth of them JSON with Korean text.
func corpus(n int) (records []kemi.LogRecord, text int) {
	rng := rand.New(rand.NewPCG(1, 2))
	streams := make([]kemi.Labels, 40)
	for i := range streams {
		streams[i] = kemi.LabelsOf("host", fmt.Sprintf("host-%02d", i/4), "app", fmt.Sprintf("app-%d", i%4), "zone", "kr-1")
	}
	info, fail := kemi.LabelsOf("logger", "http", "thread", "worker-12"), kemi.LabelsOf("logger", "pay", "thread", "main")
	at := kemi.Nanos(1_700_000_000_000_000_000)
	for i := range n {
		r := kemi.LogRecord{Stream: streams[i*len(streams)/n], Severity: kemi.SeverityInfo, At: at, Attrs: info}
		at += kemi.Nanos(rng.IntN(1_000_000))
		if i%5 == 0 {
			r.Severity, r.Attrs = kemi.SeverityError, fail
			r.Body = fmt.Sprintf(`{"trace":"%032x","msg":"주문 서비스에서 결제 요청 처리에 실패했습니다: 응답코드 %d","elapsed":%d}`, rng.Uint64(), 500+rng.IntN(4), rng.IntN(5000))
		} else {
			r.Body = fmt.Sprintf(`10.%d.%d.%d - - "GET /api/v1/orders/%d?session=%016x HTTP/1.1" %d %d "-" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120" rt=0.%03d`,
				rng.IntN(4), rng.IntN(256), rng.IntN(256), rng.IntN(1e6), rng.Uint64(), 200+rng.IntN(300), rng.IntN(50_000), rng.IntN(1000))
		}
		text += len(r.Body) + 1
		records = append(records, r)
	}
	return records, text
}

// perMB reports the CPU time that f takes for a megabyte of text; wall time says little on a machine with neighbours.
func perMB(b *testing.B, text int, f func()) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.SetBytes(int64(text))
	b.ReportAllocs()
	before := used()
	n := 0
	for b.Loop() {
		f()
		n++
	}
	b.ReportMetric(float64((used()-before).Microseconds())/1e3/(float64(n)*float64(text)/1e6), "CPU-ms/MB")
}

func BenchmarkEncodeLogs(b *testing.B) {
	records, text := corpus(6000)
	perMB(b, text, func() { codec.EncodeLogBatch("default", "", records) })
}

func BenchmarkDecodeLogs(b *testing.B) {
	records, text := corpus(6000)
	recs := codec.EncodeLogBatch("default", "", records)
	size := 0
	for i := range recs {
		recs[i].Local = nil
		size += len(recs[i].Value)
	}
	perMB(b, text, func() {
		for i := range recs {
			if _, err := codec.DecodeLogs(&recs[i]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(size)/float64(text), "encoded/text")
}

// BenchmarkLogsSmall is a batch of ten records, as applications send them.
func BenchmarkLogsSmall(b *testing.B) {
	records, _ := corpus(10)
	rec := codec.EncodeLogs("default", "", records)
	rec.Local = nil
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			codec.EncodeLogs("default", "", records)
		}
		b.ReportMetric(float64(len(rec.Value)), "bytes")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := codec.DecodeLogs(&rec); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLogsPath is the whole path: encode, durable on the embedded log, read from it, decode.
func BenchmarkLogsPath(b *testing.B) {
	records, text := corpus(6000)
	for name, disk := range map[string]bool{"from disk": true, "in this process": false} {
		b.Run(name, func(b *testing.B) {
			cfg := wal.DefaultConfig()
			cfg.Dir = b.TempDir()
			w, err := wal.Open(cfg, wal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			r, err := w.Subscribe(b.Context(), bus.Logs, "bench", nil)
			if err != nil {
				b.Fatal(err)
			}
			perMB(b, text, func() {
				recs := codec.EncodeLogBatch("default", "", records)
				if disk {
					for i := range recs {
						recs[i].Local = nil
					}
				}
				if err := w.Publish(b.Context(), bus.Logs, recs); err != nil {
					b.Fatal(err)
				}
				for n := 0; n < len(records); {
					batch, err := r.Next(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					for i := range batch.Records {
						got, err := codec.DecodeLogs(&batch.Records[i])
						if err != nil {
							b.Fatal(err)
						}
						n += len(got)
					}
				}
			})
		})
	}
}
