package push_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kemi"
	"kemi/collectors/push"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/wal"
)

// now is the time of the receivers in the tests.
var now = time.Date(2026, 5, 4, 3, 2, 1, 987_654_321, time.UTC)

var writer = kemi.Identity{Subject: "token:test", Project: "shop", Permissions: kemi.LogsWrite}

// place is the receivers of logs over a real log of record.
type place struct {
	testing.TB
	push   *push.Push
	log    *wal.WAL
	routes http.Handler
	read   bus.Positions
}

type refusing struct {
	bus.Bus
	err error
}

func (r *refusing) Publish(ctx context.Context, topic string, records []bus.Record) error {
	if r.err != nil {
		return r.err
	}
	return r.Bus.Publish(ctx, topic, records)
}

func open(t testing.TB, change func(*push.Options)) *place {
	t.Helper()
	cfg := wal.DefaultConfig()
	cfg.Dir = t.TempDir()
	l, err := wal.Open(cfg, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	o := push.Options{
		Config: push.DefaultConfig(), Bus: l, Table: codec.NewTable(nil, time.Now), Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Now: func() time.Time { return now },
	}
	if change != nil {
		change(&o)
	}
	p, err := push.New(o)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, r := range p.Routes() {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) { r.Handle(w, req, writer) })
	}
	return &place{TB: t, push: p, log: l, routes: mux, read: bus.Positions{}}
}

func (p *place) post(path string, body []byte, headers ...string) (int, string) {
	req := httptest.NewRequest("POST", path, bytes.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	p.routes.ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

// records are what was published since the last call, decoded from the disk.
func (p *place) records() []kemi.LogRecord {
	p.Helper()
	spans, err := p.log.Spans(p.Context(), bus.Logs)
	if err != nil {
		p.Fatal(err)
	}
	r, err := p.log.Subscribe(p.Context(), bus.Logs, "test", p.read)
	if err != nil {
		p.Fatal(err)
	}
	defer r.Close()
	var out []kemi.LogRecord
	for part, s := range spans {
		for p.read[part] < s.Next {
			b, err := r.Next(p.Context())
			if err != nil {
				p.Fatal(err)
			}
			for i := range b.Records {
				local, err := codec.DecodeLogs(&b.Records[i])
				if err != nil {
					p.Fatal(err)
				}
				b.Records[i].Local = nil
				rs, err := codec.DecodeLogs(&b.Records[i])
				if err != nil {
					p.Fatal(err)
				}
				if fmt.Sprintf("%+v", local) != fmt.Sprintf("%+v", rs) {
					p.Errorf("readers in this process get %+v, others %+v", local, rs)
				}
				out = append(out, rs...)
			}
			p.read[b.Partition] = b.Next()
		}
	}
	return out
}

// show is a record in one line.
func show(r kemi.LogRecord) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %q", r.At.Time().Format("06-01-02T15:04:05.999999999"), r.Severity, r.Stream, r.Body)
	if r.Attrs != nil {
		fmt.Fprintf(&b, " %s", r.Attrs)
	}
	if r.TraceID+r.SpanID != "" {
		fmt.Fprintf(&b, " %s/%s", r.TraceID, r.SpanID)
	}
	return b.String()
}

func (p *place) want(name string, want ...string) {
	p.Helper()
	var got []string
	for _, r := range p.records() {
		if r.Project != "shop" || r.ID == "" {
			p.Errorf("%s: ID %q of project %q", name, r.ID, r.Project)
		}
		got = append(got, show(r))
	}
	if !slices.Equal(got, want) {
		p.Errorf("%s:\n got %s\nwant %s", name, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

const (
	trace = "0af7651916cd43dd8448eb211c80319c"
	span  = "b7ad6b7169203331"
	noon  = "26-05-04T03:02:01.987654321" // now
)

func TestJSONLines(t *testing.T) {
	p := open(t, nil)
	for _, c := range []struct {
		name, path, body string
		want             []string
	}{
		{"names", "", `{"_msg":"a","_time":"2026-05-04T00:00:00Z","host":"h1","app":"x","level":"WARN","user":"u","n":5}`,
			[]string{`26-05-04T00:00:00 warn {app="x", host="h1"} "a" {n="5", user="u"}`}},
		{"other names", "", `{"message":"b","timestamp":1777852800,"severity":"critical","service":"s","zone":"z","trace_id":"` + trace + `","span_id":"` + strings.ToUpper(span) + `"}`,
			[]string{`26-05-04T00:00:00 error {service="s", zone="z"} "b" {severity="critical"} ` + trace + "/" + span}},
		{"all stream labels", "", `{"msg":"c","pod":"1","unit":"2","env":"3","container":"4","namespace":"5"}`,
			[]string{noon + `  {container="4", env="3", namespace="5", pod="1", unit="2"} "c"`}},
		{"nested", "", `{"log":"d","http":{"status":500,"req":{"path":"/x","ok":true}},"tags":["a", 1],"e":{},"z":null,"f":1.50}`,
			[]string{noon + `  {} "d" {f="1.50", http.req.ok="true", http.req.path="/x", http.status="500", tags="[\"a\", 1]"}`}},
		{"first name counts", "", `{"message":"not","body":"nor","_msg":"this","ts":"x","_time":"1777852800000"}`,
			[]string{`26-05-04T00:00:00  {} "this" {body="nor", message="not", ts="x"}`}},
		{"escapes", "", `{"msg":"q\" \\ \/ \n\t\r\b\f \u00e9 \ud83d\ude00 \ud800 é 한글"}`, []string{noon + ` ` + ` {} "q\" \\ / \n\t\r\b\f é 😀 � é 한글"`}},
		{"raw bytes", "", "{\"msg\":\"\xff\x00\t\x01\",\"k\":\"\xfe\"}", []string{noon + `  {} "\xff\x00\t\x01" {k="\xfe"}`}},
		{"object for a message", "", `{"msg":{"a": [1,"x"]}}`, []string{noon + `  {} "{\"a\": [1,\"x\"]}"`}},
		{"no message", "", ` {"a":"b","host":"h"} `, []string{noon + `  {host="h"} "{\"a\":\"b\",\"host\":\"h\"}" {a="b"}`}},
		{"empty message", "", `{"_msg":"","a":"b"}`, []string{noon + `  {} "" {a="b"}`}},
		{"several lines", "", "{\"msg\":\"1\"}\r\n\n  \n{\"msg\":\"2\"}\n{\"msg\":\"3\"}{\"msg\":\"4\"}", []string{noon + `  {} "1"`, noon + `  {} "2"`, noon + `  {} "3"`, noon + `  {} "4"`}},
		{"an array", "", " [{\"msg\":\"1\"},\n {\"msg\":\"2\"}] ", []string{noon + `  {} "1"`, noon + `  {} "2"`}},
		{"nothing", "", "", nil}, {"empty array", "", "[]", nil},
		{"streams stand together", "", "{\"msg\":\"1\",\"host\":\"a\"}\n{\"msg\":\"2\",\"host\":\"b\"}\n{\"msg\":\"3\",\"host\":\"a\"}", []string{noon + `  {host="a"} "1"`, noon + `  {host="a"} "3"`, noon + `  {host="b"} "2"`}},
		{"named fields", "?stream_fields=host,k8s.pod&msg_field=text&time_field=when", `{"text":"x","msg":"y","when":"1777852800.25","k8s":{"pod":"p"},"app":"a","level":"info"}`,
			[]string{`26-05-04T00:00:00.25 info {k8s.pod="p"} "x" {app="a", msg="y"}`}},
		{"as VictoriaLogs' clients", "?_stream_fields=host,app,zone&_msg_field=_msg,message,msg&_time_field=_time", `{"message":"m","_time":"2026-05-04T00:00:00.5+09:00","zone":"z","level":"ERROR"}`,
			[]string{`26-05-03T15:00:00.5 error {zone="z"} "m"`}},
		{"level is a stream label", "?stream_fields=level", `{"msg":"m","level":"debug"}`, []string{noon + ` debug {level="debug"} "m"`}},
		{"pino", "", `{"msg":"m","level":50,"time":1777852800123}`, []string{`26-05-04T00:00:00.123 error {} "m" {level="50"}`}},
		{"unknown level", "", `{"msg":"m","level":"loud"}`, []string{noon + `  {} "m" {level="loud"}`}},
		{"level of the text", "", `{"msg":"2026-01-01 ERROR no"}`, []string{noon + ` error {} "2026-01-01 ERROR no"`}},
		{"not a trace", "", `{"msg":"m","trace_id":"abc","traceId":"` + trace + `"}`, []string{noon + `  {} "m" {traceId="` + trace + `", trace_id="abc"}`}},
		{"duplicate", "", `{"msg":"m","a":"1","a":"2"}`, []string{noon + `  {} "m" {a="2"}`}},
		{"empty name", "", `{"msg":"m","":"1"}`, []string{noon + `  {} "m" {_="1"}`}},
	} {
		for _, path := range []string{"/api/v2/logs", "/api/v2/logs/push", "/insert/jsonline"} {
			if code, text := p.post(path+c.path, []byte(c.body)); code != 204 || text != "" {
				t.Errorf("%s: %d %s", c.name, code, text)
			}
			p.want(c.name, c.want...)
		}
	}
	// The sender may name the fields in headers, and pack the body.
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	_, _ = g.Write([]byte(`{"m":"packed","rack":"r1"}`))
	_ = g.Close()
	if code, text := p.post("/api/v2/logs", z.Bytes(), "Content-Encoding", "gzip", "X-Kemi-Stream-Fields", "rack", "VL-Msg-Field", "m"); code != 204 {
		t.Errorf("packed: %d %s", code, text)
	}
	p.want("packed", noon+`  {rack="r1"} "packed"`)
}

func TestBadJSONLines(t *testing.T) {
	p := open(t, nil)
	good := `{"msg":"good"}`
	for bad, want := range map[string]string{
		`{"msg":`:                         "line 2: broken JSON: it ends too early, at byte 7",
		`{"msg":"x`:                       "line 2: broken JSON: it ends too early",
		`{"msg":"x\`:                      "line 2: broken JSON: it ends too early",
		`{"msg" "x"}`:                     "line 2: broken JSON: expected ':' at byte 7, not \"\\\"x\\\"}\"",
		`{"msg":"x",}`:                    "line 2: broken JSON: expected '\"' at byte 11",
		`{"msg":x}`:                       "line 2: broken JSON: expected a value at byte 7",
		`{"msg":"\x"}`:                    "line 2: broken JSON: expected one of",
		`{"msg":"\u12g4"}`:                "line 2: broken JSON: expected four hexadecimal digits",
		`{"n":1.}`:                        "line 2: broken JSON: expected a value",
		`{"n":-}`:                         "line 2: broken JSON: expected a value",
		`{"n":1e}`:                        "line 2: broken JSON: expected a value",
		`"text"`:                          "line 2: broken JSON: expected an object {…} at byte 0",
		`plain text`:                      "line 2: broken JSON: expected an object {…} at byte 0, not \\\"plain text\\\"",
		"\x00{}":                          "line 2: broken JSON: expected an object {…}",
		`{}`:                              "line 2: an object with nothing in it",
		`{"msg":"x","_time":"yesterday"}`: "line 2: field _time: time \\\"yesterday\\\": must be as 2006-01-02T15:04:05.999Z",
		`{"msg":"x","time":0}`:            "line 2: time 0 ns: must be after 1970",
		`{"msg":"x","time":"1969-01-01T00:00:00Z"}`:                             "must be after 1970",
		`{"msg":"x","time":"2036-01-01T00:00:00Z"}`:                             "line 2: time 2036-01-01T00:00:00Z: is more than 24h0m0s in the future (ingest.maxFuture)",
		`{"msg":"x","time":"1999-01-01T00:00:00Z"}`:                             "ago (ingest.maxPast)",
		`{"msg":"` + strings.Repeat("x", 1<<20+1) + `"}`:                        "line 2: a body of 1048577 bytes: at most 1048576 are kept (ingest.maxLineBytes)",
		`{"msg":"x","a":"` + strings.Repeat("x", 1<<20) + `"}`:                  "line 2: attributes of 1048577 bytes: at most 1048576",
		`{"msg":"x","` + strings.Repeat("n", 2000) + `":1}`:                     "2000 bytes, at most 1024 are taken (ingest.maxLabelNameBytes)",
		`{"msg":"x","host":"` + strings.Repeat("h", 20_000) + `"}`:              "line 2: stream label \\\"host\\\": a value of 20000 bytes, at most 16384",
		"{\"msg\":\"x\",\"host\":\"h\xff\"}":                                    "stream label \\\"host\\\": value \\\"h\\\\xff\\\": must be UTF-8",
		"{\"msg\":\"x\",\"n\xff\":1}":                                           "must be UTF-8",
		`{"msg":"x"` + fields(600) + `}`:                                        "600 attributes: at most 512 are kept (ingest.maxAttributes)",
		`{"msg":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`: "JSON more than 64 levels deep",
		strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000):         "JSON more than 64 levels deep",
	} {
		code, text := p.post("/api/v2/logs", []byte(good+"\n"+bad+"\n"+good))
		var a struct {
			Accepted, Rejected, Status int
			Detail                     string
			Errors                     []string
		}
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Errorf("%.60s: %s: %v", bad, text, err)
		}
		if code != 400 || a.Status != 400 || a.Accepted != 2 || a.Rejected != 1 || len(a.Errors) != 1 || !strings.Contains(text, strings.ReplaceAll(want, `"`, `"`)) && !strings.Contains(a.Detail, want) {
			t.Errorf("%.60s: %d %.500s\nwant %s", bad, code, text, want)
		}
		p.want(fmt.Sprintf("%.60s", bad), noon+`  {} "good"`, noon+`  {} "good"`)
	}
	// Many bad lines: the answer stays short, and counts them all.
	code, text := p.post("/api/v2/logs", []byte(strings.Repeat("x\n", 1000)+good))
	if code != 400 || !strings.Contains(text, `"rejected":1000`) || !strings.Contains(text, "1000 of 1001 log records were refused: line 1: ") || len(text) > 4000 {
		t.Errorf("%d %s", code, text)
	}
	p.want("after 1000 bad lines", noon+`  {} "good"`)
	// In an array, what is wrong is left out, and what is broken ends it.
	code, text = p.post("/api/v2/logs", []byte(`[{"msg":"1"}, {"msg":"2","time":0}, 7, {"msg":"3"}, {"msg" }, {"msg":"4"}]`))
	if code != 400 || !strings.Contains(text, `"accepted":2,`) || !strings.Contains(text, "element 2: time 0") || !strings.Contains(text, "element 3: ") || !strings.Contains(text, "element 5 and what follows: broken JSON") {
		t.Errorf("array: %d %s", code, text)
	}
	p.want("array", noon+`  {} "1"`, noon+`  {} "3"`)
	// At the limit a line is kept whole.
	line := strings.Repeat("가", 1<<20/3) + "!"
	if code, text := p.post("/api/v2/logs", []byte(`{"msg":"`+line+`"}`)); code != 204 || len(line) != 1<<20 {
		t.Errorf("a line of 1 MiB: %d %s", code, text)
	}
	if r := p.records(); len(r) != 1 || r[0].Body != line {
		t.Error("the line of 1 MiB is not whole")
	}
}

func fields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"f%d":1`, i)
	}
	return b.String()
}

func gzipped(s string) []byte {
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	_, _ = io.WriteString(g, s)
	_ = g.Close()
	return z.Bytes()
}

func TestBodies(t *testing.T) {
	p := open(t, func(o *push.Options) { o.Config.MaxBodyBytes, o.Config.MaxDecodedBytes = 1<<20, 4<<20 })
	bomb := gzipped(strings.Repeat("\x00", 8<<20))
	for name, c := range map[string]struct {
		path    string
		body    []byte
		headers []string
		code    int
		says    string
	}{
		"too large":            {"/api/v2/logs", make([]byte, 1<<20+1), nil, 413, "1048576"},
		"gzip bomb":            {"/api/v2/logs", bomb, []string{"Content-Encoding", "gzip"}, 413, "4194304"},
		"broken gzip":          {"/api/v2/logs", bomb[:100], []string{"Content-Encoding", "gzip"}, 400, "gzip"},
		"not gzip":             {"/api/v2/logs", []byte("{}"), []string{"Content-Encoding", "gzip"}, 400, "gzip"},
		"unknown encoding":     {"/api/v2/logs", []byte("{}"), []string{"Content-Encoding", "br"}, 415, "br"},
		"long batch name":      {"/api/v2/logs", []byte("{}"), []string{"X-Kemi-Batch", strings.Repeat("x", 300)}, 400, "X-Kemi-Batch"},
		"loki bomb":            {"/loki/api/v1/push", snappy.Encode(nil, make([]byte, 8<<20)), nil, 413, "4194304"},
		"loki not snappy":      {"/loki/api/v1/push", []byte("\xff\xff\xff\xff\xff\xff\xff"), nil, 400, "snappy"},
		"loki not protobuf":    {"/loki/api/v1/push", snappy.Encode(nil, []byte("hello")), nil, 400, "protobuf"},
		"loki unknown content": {"/loki/api/v1/push", []byte("x"), []string{"Content-Type", "text/html"}, 415, "text/html"},
		"loki half JSON":       {"/loki/api/v1/push", []byte(`{"streams":[{"stream":{"a":"b"},"values":[["1`), []string{"Content-Type", "application/json"}, 400, "ends too early"},
		"loki no JSON object":  {"/loki/api/v1/push", []byte(`[]`), []string{"Content-Type", "application/json"}, 400, "expected '{'"},
		"otlp unknown content": {"/v1/logs", []byte("x"), nil, 415, "application/x-protobuf"},
		"otlp not protobuf":    {"/v1/logs", []byte("hello"), []string{"Content-Type", "application/x-protobuf"}, 400, "protobuf"},
		"otlp not JSON":        {"/v1/logs", []byte("{"), []string{"Content-Type", "application/json"}, 400, "JSON"},
		"cannot wait":          {"/api/v2/logs?wait=applied", []byte(`{"msg":"x"}`), nil, 400, "wait"},
	} {
		if code, text := p.post(c.path, c.body, c.headers...); code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %s; want %d with %s", name, code, text, c.code, c.says)
		}
	}
}

// TestAcknowledgement: what the log of record does not have is not acknowledged, in no protocol.
func TestAcknowledgement(t *testing.T) {
	var b *refusing
	p := open(t, func(o *push.Options) {
		b = &refusing{Bus: o.Bus, err: kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "no space left on device"), 7*time.Second)}
		o.Bus = b
	})
	req, _ := proto.Marshal(&collector.ExportLogsServiceRequest{ResourceLogs: []*otlp.ResourceLogs{{ScopeLogs: []*otlp.ScopeLogs{{LogRecords: []*otlp.LogRecord{{Body: str("x")}}}}}}})
	for path, c := range map[string]struct {
		body []byte
		kind string
	}{
		"/api/v2/logs":      {[]byte(`{"msg":"x"}`), "application/json"},
		"/loki/api/v1/push": {[]byte(fmt.Sprintf(`{"streams":[{"stream":{"a":"b"},"values":[["%d","x"]]}]}`, now.UnixNano())), "application/json"},
		"/v1/logs":          {req, "application/x-protobuf"},
	} {
		r := httptest.NewRequest("POST", path, bytes.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		w := httptest.NewRecorder()
		p.routes.ServeHTTP(w, r)
		if w.Code != 503 || w.Header().Get("Retry-After") != "7" || !strings.Contains(w.Body.String(), "no space") {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
	}
	if err := p.push.WriteLogs(t.Context(), writer, "local", []kemi.LogRecord{{At: kemi.NanosOf(now), Body: "x"}}, ""); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("WriteLogs: %v", err)
	}
	b.err = nil
	if code, _ := p.post("/api/v2/logs", []byte(`{"msg":"x"}`)); code != 204 {
		t.Error("it does not recover")
	}
}

// TestBatchNames: sent again under its name a batch has the same IDs.
func TestBatchNames(t *testing.T) {
	p := open(t, nil)
	ids := func(name, value string) (out []string) {
		if code, text := p.post("/api/v2/logs", []byte("{\"msg\":\"1\",\"host\":\"b\"}\n{\"msg\":\"2\",\"host\":\"a\"}"), name, value); code != 204 {
			t.Fatalf("%d %s", code, text)
		}
		for _, r := range p.records() {
			out = append(out, r.Body+"="+r.ID)
		}
		return out
	}
	first := ids("X-Kemi-Batch", "agent-1-77")
	if again := ids("Idempotency-Key", "agent-1-77"); !slices.Equal(first, again) || first[0] != "1=agent-1-77~00000" {
		t.Errorf("%v, then %v", first, again)
	}
	if a, b := ids("X", ""), ids("X", ""); slices.Equal(a, b) {
		t.Errorf("without a name both have %v", a)
	}
}

type inventory map[string]kemi.Labels

func (i inventory) Enrich(project, host string) kemi.Labels { return i[project+"/"+host] }
func (i inventory) Epoch() uint64                           { return 1 }

func TestEnrichAndWriteLogs(t *testing.T) {
	waited := 0
	p := open(t, func(o *push.Options) {
		o.Enricher = inventory{"shop/h1": kemi.LabelsOf("service", "pay", "owner", "team-pay", "zone", "kr")}
		o.WaitApplied = func(_ context.Context, topic string, _ int32, offset int64) error {
			if topic != bus.Logs || offset != 0 {
				t.Errorf("waits for %s %d", topic, offset)
			}
			waited++
			return nil
		}
	})
	if code, text := p.post("/api/v2/logs?wait=applied", []byte("{\"msg\":\"1\",\"host\":\"h1\",\"zone\":\"mine\"}\n{\"msg\":\"2\",\"host\":\"h2\"}\n{\"msg\":\"3\"}")); code != 204 || waited != 1 {
		t.Errorf("%d %s, waited %d times", code, text, waited)
	}
	p.want("enriched", noon+`  {host="h1", owner="team-pay", service="pay", zone="mine"} "1"`, noon+`  {host="h2"} "2"`, noon+`  {} "3"`)

	at := kemi.NanosOf(now)
	stream := kemi.LabelsOf("host", "h1")
	in := []kemi.LogRecord{{At: at, Stream: stream, Body: "level=warn a"}, {At: 0, Body: "no time"}, {At: at, Stream: stream, Body: "b", Severity: 21}, {At: at, Stream: kemi.Labels{{Name: "x\xff", Value: "y"}}}}
	err := p.push.WriteLogs(t.Context(), writer, "local", in, "w")
	if !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), "2 of 4 log records were refused: record 1: time 0 ns") || !strings.Contains(err.Error(), "record 3: ") {
		t.Errorf("WriteLogs: %v", err)
	}
	p.want("written", noon+` warn {host="h1", owner="team-pay", service="pay", zone="kr"} "level=warn a"`, noon+` fatal {host="h1", owner="team-pay", service="pay", zone="kr"} "b"`)
	if len(stream) != 1 {
		t.Error("the caller's labels were changed")
	}
	if err := p.push.WriteLogs(t.Context(), kemi.Identity{Project: "shop"}, "local", in, ""); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("without permission: %v", err)
	}
	if err := p.push.WriteLogs(t.Context(), writer, "local", nil, ""); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

// lokiBody is a push request in protobuf, as Loki's clients make it.
func lokiBody(labels string, entries ...[]byte) []byte {
	s := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), labels)
	for _, e := range entries {
		s = protowire.AppendBytes(protowire.AppendTag(s, 2, protowire.BytesType), e)
	}
	s = protowire.AppendVarint(protowire.AppendTag(s, 3, protowire.VarintType), 12345) // hash
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), s)
}

func lokiEntry(at time.Time, line string, meta ...string) []byte {
	ts := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(at.Unix()))
	ts = protowire.AppendVarint(protowire.AppendTag(ts, 2, protowire.VarintType), uint64(at.Nanosecond()))
	e := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), ts)
	e = protowire.AppendString(protowire.AppendTag(e, 2, protowire.BytesType), line)
	for i := 0; i+1 < len(meta); i += 2 {
		l := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), meta[i])
		l = protowire.AppendString(protowire.AppendTag(l, 2, protowire.BytesType), meta[i+1])
		e = protowire.AppendBytes(protowire.AppendTag(e, 3, protowire.BytesType), l)
	}
	return e
}

func TestLoki(t *testing.T) {
	p := open(t, nil)
	ns := fmt.Sprint(now.UnixNano())
	js := []string{"Content-Type", "application/json; charset=utf-8"}
	for _, c := range []struct {
		name, body string
		want       []string
	}{
		{"values", `{"streams":[{"stream":{"app":"x","host":"h"},"values":[["` + ns + `","one"],["` + ns + `","two\n",{"level":"info","user":"u","trace_id":"` + trace + `"}]]},{"stream":{"app":"y","level":"error"},"values":[["` + ns + `",""]]}]}`,
			[]string{noon + `  {app="x", host="h"} "one"`, noon + ` info {app="x", host="h"} "two\n" {user="u"} ` + trace + `/`, noon + ` error {app="y", level="error"} ""`}},
		{"values first", `{"x":{"y":[1]},"streams":[{"values":[["` + ns + `","one"]],"stream":{"b":"2","a":"1"}}]}`, []string{noon + `  {a="1", b="2"} "one"`}},
		{"detected level", `{"streams":[{"stream":{},"values":[["` + ns + `","one",{"detected_level":"warn"}],["` + ns + `","ERROR two",{"detected_level":"unknown","z":"1","a":"2"}]]}]}`,
			[]string{noon + ` warn {} "one" {detected_level="warn"}`, noon + ` error {} "ERROR two" {a="2", detected_level="unknown", z="1"}`}},
		{"older form", `{"streams":[{"labels":"{app=\"x\"}","entries":[{"ts":"` + now.Format(time.RFC3339Nano) + `","line":"one"}]}]}`, []string{noon + `  {app="x"} "one"`}},
		{"nothing", `{}`, nil}, {"no streams", `{"streams":[]}`, nil},
	} {
		if code, text := p.post("/loki/api/v1/push", []byte(c.body), js...); code != 204 || text != "" {
			t.Errorf("%s: %d %s", c.name, code, text)
		}
		p.want(c.name, c.want...)
		if code, text := p.post("/loki/api/v1/push", gzipped(c.body), append(js, "Content-Encoding", "gzip")...); code != 204 {
			t.Errorf("%s, packed: %d %s", c.name, code, text)
		}
		p.want(c.name+", packed", c.want...)
	}

	pb := append(lokiBody(`{app="x", host="h\"1"}`, lokiEntry(now, "\xff raw", "level", "debug", "k", "v"), lokiEntry(now, `{"severity":"error"}`)), lokiBody("{}", lokiEntry(now, "z"))...)
	want := []string{noon + ` debug {app="x", host="h\"1"} "\xff raw" {k="v"}`, noon + ` error {app="x", host="h\"1"} "{\"severity\":\"error\"}"`, noon + `  {} "z"`}
	for _, c := range []struct {
		body    []byte
		headers []string
	}{
		{snappy.Encode(nil, pb), []string{"Content-Type", "application/x-protobuf"}},
		{snappy.Encode(nil, pb), []string{"Content-Encoding", "snappy"}},
		{gzipped(string(pb)), []string{"Content-Type", "application/x-protobuf", "Content-Encoding", "gzip"}},
	} {
		if code, text := p.post("/loki/api/v1/push", c.body, c.headers...); code != 204 {
			t.Errorf("%v: %d %s", c.headers, code, text)
		}
		p.want("protobuf", want...)
	}

	// What is wrong is named by its stream; the rest is kept.
	far, old := now.Add(48*time.Hour), time.Unix(0, 0)
	mixed := append(lokiBody(`{app="bad"}`, lokiEntry(far, "far"), lokiEntry(old, "zero"), lokiEntry(now, "kept")), lokiBody(`{app=x}`, lokiEntry(now, "unquoted"))...)
	code, text := p.post("/loki/api/v1/push", snappy.Encode(nil, mixed))
	for _, s := range []string{"3 of 4 log records were refused", `stream {app="bad"}: time 2026-05-06T`, "time 0 ns: must be after 1970", `labels "{app=x}": expected a value in quotes at byte 5`} {
		if !strings.Contains(text, s) {
			t.Errorf("%s is not in %s", s, text)
		}
	}
	if code != 400 {
		t.Errorf("%d", code)
	}
	p.want("the rest", noon+`  {app="bad"} "kept"`)
	for entry, want := range map[string]string{
		`["x","y"]`: `timestamp "x"`, `["1"]`: "an entry of 1 elements", `[]`: "an entry of 0 elements", `["` + ns + `",5]`: "expected a line as a string", `["0","y"]`: "time 0 ns",
		`["` + ns + `","x",{"` + strings.Repeat("n", 2000) + `":"v"}]`: "maxLabelNameBytes", `["-5","y"]`: "must be after 1970", `["99999999999999999999","y"]`: "timestamp",
		`["` + ns + `","` + strings.Repeat("x", 1<<20+1) + `"]`: `stream {app="a"}: a body of 1048577 bytes`,
	} {
		if code, text := p.post("/loki/api/v1/push", []byte(`{"streams":[{"stream":{"app":"a"},"values":[`+entry+`]}]}`), js...); code != 400 || !strings.Contains(text, want) {
			t.Errorf("%.40s: %d %.300s", entry, code, text)
		}
	}
	for labels, want := range map[string]string{"": "expected '{'", "{": "name=", `{a="b"`: "',' or '}'", `{a="b"}x`: "the end", `{="b"}`: "a name", `{a='b'}`: "quotes", `{a="b" c="d"}`: "',' or '}'", `{a="\q"}`: "quotes"} {
		if code, text := p.post("/loki/api/v1/push", snappy.Encode(nil, lokiBody(labels, lokiEntry(now, "x")))); code != 400 || !strings.Contains(text, want) {
			t.Errorf("labels %s: %d %s", labels, code, text)
		}
	}
	if r := p.records(); len(r) != 0 {
		t.Errorf("published: %v", r)
	}
}

func str(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}
func kv(k, v string) *common.KeyValue { return &common.KeyValue{Key: k, Value: str(v)} }

func TestOTLP(t *testing.T) {
	p := open(t, nil)
	long := strings.Repeat("j", 20_000)
	req := &collector.ExportLogsServiceRequest{ResourceLogs: []*otlp.ResourceLogs{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{kv("service.name", "cart"), kv("host.name", "h1"), kv("k8s.pod.name", "p-1"), kv("deployment.environment.name", "prod"), kv("zone", "own")}},
		ScopeLogs: []*otlp.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "lib"}, LogRecords: []*otlp.LogRecord{
			{TimeUnixNano: uint64(now.UnixNano()), SeverityNumber: 13, Body: str("a"), Attributes: []*common.KeyValue{kv("k", "v")}, TraceId: []byte("0123456789abcdef"), SpanId: []byte("01234567")},
			{Body: str("no time")},
			{TimeUnixNano: uint64(now.Add(100 * time.Hour).UnixNano()), Body: str("far")},
		}}},
	}, {Resource: &resource.Resource{Attributes: []*common.KeyValue{kv("process.command_line", long)}}, ScopeLogs: []*otlp.ScopeLogs{{LogRecords: []*otlp.LogRecord{{TimeUnixNano: uint64(now.UnixNano()), SeverityText: "Error", Body: str("b")}}}}}}}
	body, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	stream := `{deployment.environment.name="prod", env="prod", host="h1", host.name="h1", k8s.pod.name="p-1", pod="p-1", service="cart", service.name="cart", zone="own"}`
	want := []string{
		noon + ` warn ` + stream + ` "a" {k="v", scope.name="lib"} 30313233343536373839616263646566/3031323334353637`,
		noon + `  ` + stream + ` "no time" {scope.name="lib"}`,
		noon + ` error {} "b" {process.command_line="` + long + `"}`,
	}
	code, text := p.post("/v1/logs", body, "Content-Type", "application/x-protobuf")
	var resp collector.ExportLogsServiceResponse
	if err := proto.Unmarshal([]byte(text), &resp); err != nil || code != 200 || resp.GetPartialSuccess().GetRejectedLogRecords() != 1 || !strings.Contains(resp.PartialSuccess.ErrorMessage, "log record 2: time 2026-05-08") {
		t.Errorf("%d %v %v", code, err, &resp)
	}
	p.want("protobuf", want...)

	req.ResourceLogs[0].ScopeLogs[0].LogRecords = req.ResourceLogs[0].ScopeLogs[0].LogRecords[:2]
	body, _ = proto.Marshal(req)
	if code, text := p.post("/v1/logs", gzipped(string(body)), "Content-Type", "application/x-protobuf", "Content-Encoding", "gzip"); code != 200 || text != "" {
		t.Errorf("%d %q", code, text)
	}
	p.want("packed", want...)

	js := `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"cart"}}]},"scopeLogs":[{"scope":{"name":"lib"},"logRecords":[
		{"timeUnixNano":"` + fmt.Sprint(now.UnixNano()) + `","severityNumber":17,"severityText":"Error","body":{"stringValue":"a"},"traceId":"` + strings.ToUpper(trace) + `","spanId":"` + span + `","attributes":[
			{"key":"i","value":{"intValue":"-5"}},{"key":"j","value":{"intValue":7}},{"key":"d","value":{"doubleValue":1.5}},{"key":"n","value":{"doubleValue":"NaN"}},{"key":"b","value":{"boolValue":true}},{"key":"e","value":{}},
			{"key":"by","value":{"bytesValue":"/w=="}},{"key":"l","value":{"arrayValue":{"values":[{"stringValue":"x"},{"intValue":1}]}}},{"key":"m","value":{"kvlistValue":{"values":[{"key":"k","value":{"boolValue":false}}]}}}]},
		{"observedTimeUnixNano":` + fmt.Sprint(now.UnixNano()) + `,"severityText":"strange","eventName":"ev","body":{"kvlistValue":{"values":[]}},"unknown":1},
		{"timeUnixNano":5,"body":{"intValue":5}}]}]}]}`
	code, text = p.post("/v1/logs", []byte(js), "Content-Type", "application/json")
	if code != 200 || !strings.Contains(text, `"rejectedLogRecords":"1"`) || !strings.Contains(text, "log record 2: time 1970-01-01") {
		t.Errorf("JSON: %d %s", code, text)
	}
	p.want("JSON",
		noon+` error {service="cart", service.name="cart"} "a" {b="true", by="\xff", d="1.5", i="-5", j="7", l="[\"x\",1]", m="{\"k\":false}", n="NaN", scope.name="lib"} `+trace+"/"+span,
		noon+`  {service="cart", service.name="cart"} "{}" {event.name="ev", level="strange", scope.name="lib"}`)
	if code, text := p.post("/v1/logs", []byte(`{}`), "Content-Type", "application/json"); code != 200 || strings.TrimSpace(text) != "{}" {
		t.Errorf("nothing: %d %s", code, text)
	}
	if code, text := p.post("/v1/logs", []byte(`{"resourceLogs":5}`), "Content-Type", "application/json"); code != 400 || !strings.Contains(text, `"code":3`) {
		t.Errorf("wrong JSON: %d %s", code, text)
	}
}

func TestRoutesOfLogs(t *testing.T) {
	p := open(t, nil)
	n := 0
	for _, r := range p.push.Routes() {
		if strings.Contains(r.Pattern, "log") || strings.Contains(r.Pattern, "loki") || strings.Contains(r.Pattern, "jsonline") {
			n++
			if r.Needs != kemi.LogsWrite || r.Public {
				t.Errorf("%s needs %s", r.Pattern, r.Needs)
			}
		}
	}
	if n != 6 && n != 7 {
		t.Errorf("%d routes", n)
	}
	if !reflect.DeepEqual(push.DefaultConfig().Validate(), nil) {
		t.Error(push.DefaultConfig().Validate())
	}
}

// TestRecordsKeepTheirTexts: records in memory stay as they are when the next requests come, although the memory of requests is used again.
func TestRecordsKeepTheirTexts(t *testing.T) {
	p := open(t, nil)
	r, err := p.log.Subscribe(t.Context(), bus.Logs, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var before []string
	var kept []kemi.LogRecord
	for round := range 6 {
		line := strings.Repeat(fmt.Sprintf("%d ", round), 300)
		js := fmt.Sprintf(`{"host":"h%d","level":"info","user":"u%d","_msg":"%s \"quoted\""}`, round, round, line)
		for _, c := range []struct {
			path string
			body []byte
			head []string
		}{
			{"/insert/jsonline", []byte(js + "\n" + strings.ReplaceAll(js, `"h`, `"g`) + "\n" + js), nil},
			{"/insert/jsonline", gzipped(js), []string{"Content-Encoding", "gzip"}},
			{"/loki/api/v1/push", snappy.Encode(nil, lokiBody(fmt.Sprintf(`{host="h%d"}`, round), lokiEntry(now, line, "user", fmt.Sprint("u", round)))), nil},
		} {
			if code, text := p.post(c.path, c.body, c.head...); code != http.StatusNoContent {
				t.Fatal(code, text)
			}
			b, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i := range b.Records {
				if b.Records[i].Local == nil {
					t.Fatal("not in memory")
				}
				got, err := codec.DecodeLogs(&b.Records[i])
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range got {
					before, kept = append(before, strings.Clone(fmt.Sprintf("%+v", x))), append(kept, x)
				}
			}
		}
	}
	for i, x := range kept {
		if got := fmt.Sprintf("%+v", x); got != before[i] {
			t.Fatalf("record %d is %s now, was %s", i, got, before[i])
		}
	}
	if len(kept) != 6*5 {
		t.Errorf("%d records", len(kept))
	}
}
