package logs_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/lines"
	"kemi/pipeline/speed"
	"kemi/pipeline/store"
	"kemi/pipeline/wal"
	"kemi/sauron/logs"
)

// server is the API over a real log of record and a real index.
type server struct {
	*httptest.Server
	t     *testing.T
	bus   *wal.WAL
	logs  *logs.Logs
	live  *speed.Follower
	fresh func() store.Freshness
	stop  func()
}

func newServer(t *testing.T, cfg logs.Config) *server {
	t.Helper()
	wc := wal.DefaultConfig()
	wc.Dir = t.TempDir()
	w, err := wal.Open(wc, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sc := lines.DefaultConfig()
	sc.Dir = t.TempDir()
	index, err := lines.Open(sc, lines.Options{})
	if err != nil {
		t.Fatal(err)
	}
	silent := slog.New(slog.DiscardHandler)
	s := &server{t: t, bus: w}
	s.live = speed.New(speed.Options{Bus: w, Topic: bus.Logs, Group: "index", Positions: index.Positions, Apply: speed.Logs(index, silent), Log: silent, Registry: prometheus.NewRegistry()})
	s.fresh = s.live.Freshness
	s.logs, err = logs.New(logs.Options{
		Config: cfg, Store: index, Deleter: index, Bus: w, Freshness: func() store.Freshness { return s.fresh() }, Log: silent, Registerer: prometheus.NewRegistry(), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.live.Run(ctx) }()
	go func() { ended <- s.logs.Run(ctx) }()
	mux := http.NewServeMux()
	for _, r := range s.logs.Routes() {
		needs := kemi.LogsRead
		if strings.HasSuffix(r.Pattern, "/delete") {
			needs |= kemi.LogsDelete
		}
		if r.Needs != needs {
			t.Errorf("%s needs %s", r.Pattern, r.Needs)
		}
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, q *http.Request) {
			project := q.Header.Get("X-Kemi-Project")
			if project == "" {
				project = "p"
			}
			permissions := kemi.LogsRead
			if q.Header.Get("X-May-Delete") != "" {
				permissions |= kemi.LogsDelete
			}
			r.Handle(w, q, kemi.Identity{Subject: "test", Project: project, Permissions: permissions})
		})
	}
	s.Server = httptest.NewServer(mux)
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() {
		s.stop()
		s.CloseClientConnections()
		s.Close()
		if err := index.Close(); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// publish makes records durable, and waits until they can be searched.
func (s *server) publish(project, batch string, records ...kemi.LogRecord) {
	s.t.Helper()
	recs := codec.EncodeLogBatch(project, batch, records)
	if err := s.bus.Publish(s.t.Context(), bus.Logs, recs); err != nil {
		s.t.Fatal(err)
	}
	for _, r := range recs {
		if err := s.live.WaitApplied(s.t.Context(), r.Partition, r.Offset); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *server) get(path string, pairs ...string) (int, string) {
	s.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return s.do(http.MethodGet, path+"?"+v.Encode(), nil)
}

func (s *server) do(method, path string, body io.Reader, headers ...string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+"/api/v2/logs/"+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if stats := resp.Trailer.Get("X-Kemi-Stats"); stats != "" {
		b = append(b, "trailer "+stats...)
	}
	return resp.StatusCode, string(b)
}

type answer struct {
	Records []struct {
		ID, NS, Time, Level, Body, BodyBase64, TraceID, SpanID string
		At                                                     int64
		Severity                                               int
		Stream, Attrs                                          map[string]string
	}
	Buckets []store.LogBucket
	Step    int64
	Fields  []store.LogField
	Count   int64
	Groups  []struct {
		Labels map[string]string
		Count  int64
	}
	Stats struct {
		Records, Bytes, TookMS int64
		Views                  []struct {
			Name     string
			AsOf     int64
			Complete bool
		}
	}
	AsOf     int64
	Complete *bool
	Reason   string
	Next     string
	Warnings []string
}

func (s *server) ask(path string, pairs ...string) answer {
	s.t.Helper()
	code, text := s.get(path, pairs...)
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil || code != 200 {
		s.t.Fatalf("%s %v: %d %v: %.500s", path, pairs, code, err, text)
	}
	if a.Complete == nil {
		s.t.Fatalf("%s: the answer does not say whether it is complete: %s", path, text)
	}
	return a
}

func (a answer) bodies() string {
	var out []string
	for _, r := range a.Records {
		out = append(out, r.Body)
	}
	return strings.Join(out, "|")
}

const trace = "0af7651916cd43dd8448eb211c80319c"

func TestQuery(t *testing.T) {
	s := newServer(t, logs.Config{})
	now := time.Now()
	at := func(ago time.Duration) kemi.Nanos { return kemi.NanosOf(now.Add(-ago)) }
	pay, web := kemi.LabelsOf("service", "pay", "host", "h1"), kemi.LabelsOf("service", "web", "host", "h2")
	s.publish("p", "b",
		kemi.LogRecord{At: at(5 * time.Minute), Severity: kemi.SeverityError, Stream: pay, Body: "결제 실패: connection reset", Attrs: kemi.LabelsOf("status", "503"), TraceID: trace},
		kemi.LogRecord{At: at(4 * time.Minute), Severity: kemi.SeverityInfo, Stream: web, Body: "GET /health", Attrs: kemi.LabelsOf("path", "/health")},
		kemi.LogRecord{At: at(3 * time.Minute), Severity: kemi.SeverityWarn, Stream: pay, Body: "slow \u2028\x00\x7f\"q\" \xff"},
		kemi.LogRecord{At: at(2 * time.Hour), Stream: pay, Body: "two hours old"},
	)
	s.publish("other", "b", kemi.LogRecord{At: at(time.Minute), Stream: pay, Body: "secret of others"})

	for _, c := range []struct{ query, start, want string }{
		{"", "", "slow \u2028\x00\x7f\"q\" \ufffd|GET /health|결제 실패: connection reset"},
		{"", "3h-ago", "slow \u2028\x00\x7f\"q\" \ufffd|GET /health|결제 실패: connection reset|two hours old"},
		{`service:pay level:error "connection reset" -path:/health`, "", "결제 실패: connection reset"},
		{"level:>=warn", "", "slow \u2028\x00\x7f\"q\" \ufffd|결제 실패: connection reset"},
		{"status:[500 TO 599]", "", "결제 실패: connection reset"},
		{"secret", "", ""}, {"실패", "", "결제 실패: connection reset"}, {"hea*", "", "GET /health"}, {"/GET .health/", "", "GET /health"}, {"trace_id:" + trace, "", "결제 실패: connection reset"},
	} {
		if got := s.ask("query", "query", c.query, "start", c.start).bodies(); got != c.want {
			t.Errorf("%s: %q, want %q", c.query, got, c.want)
		}
	}

	a := s.ask("query", "order", "asc", "limit", "1")
	r := a.Records[0]
	if r.ID != "b~00000" || r.At != int64(at(5*time.Minute).Millis()) || r.NS != fmt.Sprint(int64(at(5*time.Minute))) || r.Time != now.Add(-5*time.Minute).UTC().Format(time.RFC3339Nano) ||
		r.Level != "error" || r.Severity != 17 || r.Stream["service"] != "pay" || r.Attrs["status"] != "503" || r.TraceID != trace {
		t.Errorf("record %+v", r)
	}
	if !*a.Complete || a.AsOf == 0 || a.Stats.Records != 1 || a.Stats.Bytes == 0 || len(a.Stats.Views) != 1 || !a.Stats.Views[0].Complete || a.Next == "" {
		t.Errorf("answer %+v", a)
	}
	odd := s.ask("query", "query", "slow").Records[0]
	if b, err := base64.StdEncoding.DecodeString(odd.BodyBase64); err != nil || string(b) != "slow \u2028\x00\x7f\"q\" \xff" {
		t.Errorf("the bytes of the body: %q %v", b, err)
	}
	if w := s.ask("query", "query", "slow^3").Warnings; len(w) != 1 {
		t.Errorf("warnings %v", w)
	}

	// Times in all forms.
	ms := at(4 * time.Minute).Millis()
	for _, start := range []string{fmt.Sprint(ms), fmt.Sprint(ms/1000) + "." + fmt.Sprintf("%03d", ms%1000), fmt.Sprint(ms.Nanos()), fmt.Sprint(int64(ms) * 1000), now.Add(-4 * time.Minute).UTC().Format(time.RFC3339Nano), ms.Time().In(time.FixedZone("", 9*3600)).Format("2006-01-02T15:04:05.000Z07:00")} {
		if got := s.ask("query", "start", start, "end", "now").bodies(); got != "slow \u2028\x00\x7f\"q\" \ufffd|GET /health" {
			t.Errorf("start %s: %q", start, got)
		}
	}
	// POST, as a form and as JSON.
	for _, c := range [][2]string{{"application/x-www-form-urlencoded", "query=%EC%8B%A4%ED%8C%A8&limit=5"}, {"application/json", `{"query": "실패", "limit": 5, "start": "15m-ago"}`}} {
		if code, text := s.do("POST", "query", strings.NewReader(c[1]), "Content-Type", c[0]); code != 200 || !strings.Contains(text, "connection reset") || strings.Contains(text, "GET") {
			t.Errorf("POST %s: %d %s", c[0], code, text)
		}
	}
	// JSON lines.
	for _, c := range [][2]string{{"query?format=ndjson", ""}, {"query", "application/x-ndjson"}} {
		code, text := s.do("GET", c[0], nil, "Accept", c[1])
		lines := strings.Split(text, "\n")
		if code != 200 || len(lines) != 4 || !strings.Contains(lines[1], `"body":"GET /health"`) || !strings.HasPrefix(lines[3], `trailer {"stats":{"records":3`) {
			t.Errorf("%v: %d %q", c, code, text)
		}
		for _, l := range lines[:3] {
			if !json.Valid([]byte(l)) {
				t.Errorf("no JSON: %s", l)
			}
		}
	}
	if code, text := s.do("GET", "query", nil, "X-Kemi-Project", "other"); code != 200 || !strings.Contains(text, "secret of others") || strings.Contains(text, "health") {
		t.Errorf("the other project: %d %s", code, text)
	}
	s.fresh = func() store.Freshness { return store.Freshness{Reason: "replay under way"} }
	if a := s.ask("query"); *a.Complete || a.Reason != "replay under way" {
		t.Errorf("an answer while the log is replayed: %+v", a)
	}
}

// TestPages: whatever the order and however many records have the same time, the pages together are the whole.
func TestPages(t *testing.T) {
	s := newServer(t, logs.Config{})
	base := kemi.NanosOf(time.Now().Add(-time.Minute))
	var all []kemi.LogRecord
	for i := range 50 {
		all = append(all, kemi.LogRecord{At: base + kemi.Nanos(i/9), Stream: kemi.LabelsOf("n", fmt.Sprint(i%3)), Body: fmt.Sprint("m", i)})
	}
	s.publish("p", "b", all...)
	for _, order := range []string{"asc", "desc"} {
		whole := s.ask("query", "order", order, "limit", "1000")
		if len(whole.Records) != 50 || whole.Next != "" {
			t.Fatalf("%d records, next %q", len(whole.Records), whole.Next)
		}
		var got []string
		cursor := ""
		for pages := 0; pages == 0 || cursor != ""; pages++ {
			a := s.ask("query", "order", order, "limit", "7", "cursor", cursor)
			got = append(got, a.bodies())
			cursor = a.Next
			if pages > 20 {
				t.Fatal("no end")
			}
		}
		if strings.Join(got, "|") != whole.bodies() {
			t.Errorf("%s: pages %v, whole %s", order, got, whole.bodies())
		}
	}
	// An answer that is too long in bytes goes on on the next page, and says so.
	small := newServer(t, logs.Config{MaxRecords: 10, MaxStream: 10, MaxBytes: 1000, MaxConcurrent: 1, Timeout: time.Second, MaxWatchers: 1, WatchBytes: 1})
	small.publish("p", "", kemi.LogRecord{At: base, Body: strings.Repeat("x", 2000)}, kemi.LogRecord{At: base + 1, Body: "y"})
	a := small.ask("query", "order", "asc")
	if len(a.Records) != 1 || *a.Complete || !strings.Contains(a.Reason, "1000 bytes") || a.Next == "" {
		t.Errorf("%d records, complete %t, %s", len(a.Records), *a.Complete, a.Reason)
	}
	if b := small.ask("query", "order", "asc", "cursor", a.Next); b.bodies() != "y" || !*b.Complete {
		t.Errorf("next page %s", b.bodies())
	}
}

func TestBadQuestions(t *testing.T) {
	s := newServer(t, logs.Config{})
	for path, want := range map[string]string{
		"query?query=a+AND":                "position 6: expected a condition",
		"query?limit=0":                    "limit: \"0\": must be a number from 1 to 10000",
		"query?limit=10001":                "must be a number from 1 to 10000",
		"query?limit=x":                    "limit",
		"query?order=up":                   "order: \"up\": must be asc or desc",
		"query?format=xml":                 "format",
		"query?start=yesterday":            "start: Invalid time: yesterday",
		"query?start=now&end=1h-ago":       "start: ",
		"query?end=2018-13-01T00:00:00Z":   "end: ",
		"query?start=99999999999999999999": "start: ",
		"query?start=5x-ago":               "start: ",
		"query?cursor=nonsense":            "cursor",
		"query?cursor=12_":                 "cursor",
		"query?a=%zz":                      "parameters of the URL",
		"histogram?start=1d-ago&step=1ms":  "buckets",
		"histogram?step=often":             "step",
		"fields?top=0":                     "top",
		"context":                          "id: is missing",
		"context?id=none":                  "there is no such record",
		"tail?query=(":                     "position 2",
		"count?query=%22":                  "position 2",
	} {
		code, text := s.do("GET", path, nil)
		if code != 400 && code != 404 || !strings.Contains(text, strings.ReplaceAll(want, `"`, `\"`)) {
			t.Errorf("%s: %d %s; want %s", path, code, text, want)
		}
	}
	for body, want := range map[string]int{`{"query":`: 400, `[1]`: 400, `{"limit":[]}`: 400, strings.Repeat(" ", 2<<20): 413} {
		if code, text := s.do("POST", "query", strings.NewReader(body), "Content-Type", "application/json"); code != want {
			t.Errorf("POST %.20s: %d %s", body, code, text)
		}
	}
	if _, err := s.logs.Count(t.Context(), kemi.Identity{Project: "p"}, "", 0, 1, nil); kemi.HTTPStatus(err) != 403 {
		t.Errorf("counting without permission: %v", err)
	}
	if _, err := s.logs.Count(t.Context(), kemi.Identity{Project: "p", Permissions: kemi.LogsRead}, "(", 0, 1, nil); kemi.HTTPStatus(err) != 400 {
		t.Errorf("a broken query: %v", err)
	}
	if _, err := logs.New(logs.Options{Config: logs.Config{MaxRecords: 1}}); err == nil || !strings.Contains(err.Error(), "maxStream: 0") {
		t.Errorf("a limit of 0: %v", err)
	}
}

func TestSummaries(t *testing.T) {
	s := newServer(t, logs.Config{})
	minute := time.Now().Truncate(time.Minute).Add(-10 * time.Minute)
	var all []kemi.LogRecord
	for i := range 30 {
		sev := kemi.SeverityInfo
		if i%3 == 0 {
			sev = kemi.SeverityError
		}
		all = append(all, kemi.LogRecord{At: kemi.NanosOf(minute.Add(time.Duration(i) * 6 * time.Second)), Severity: sev, Stream: kemi.LabelsOf("host", fmt.Sprint("h", i%2)), Body: fmt.Sprint("line ", i), Attrs: kemi.LabelsOf("n", fmt.Sprint(i%5))})
	}
	s.publish("p", "b", all...)
	from, to := fmt.Sprint(minute.UnixMilli()), fmt.Sprint(minute.Add(3*time.Minute).UnixMilli())

	h := s.ask("histogram", "step", "1m", "start", from, "end", to)
	if len(h.Buckets) != 3 || h.Step != 60_000 || h.Buckets[1].At != kemi.Millis(minute.Add(time.Minute).UnixMilli()) || h.Buckets[1].Count != 10 || h.Buckets[1].BySeverity["error"] != 3 {
		t.Errorf("histogram %+v of %d", h.Buckets, h.Step)
	}
	if h := s.ask("histogram", "query", "level:error"); h.Step != 15_000 || len(h.Buckets) < 60 {
		t.Errorf("of itself: %d buckets of %d", len(h.Buckets), h.Step)
	}
	f := s.ask("fields", "start", from, "end", to, "top", "3")
	i := slices.IndexFunc(f.Fields, func(f store.LogField) bool { return f.Name == "n" })
	if i < 0 || len(f.Fields[i].Values) != 3 || f.Fields[i].Values[0].Count != 6 || f.Fields[i].More != 12 {
		t.Errorf("fields %+v", f.Fields)
	}
	c := s.ask("count", "query", "level:error", "by", "host, level", "start", from, "end", to)
	if c.Count != 10 || len(c.Groups) != 2 || c.Groups[0].Count != 5 || c.Groups[0].Labels["level"] != "error" {
		t.Errorf("count %+v", c)
	}
	if c := s.ask("count", "query", "nothing"); c.Count != 0 {
		t.Errorf("count of nothing %+v", c)
	}
	got, err := s.logs.Count(t.Context(), kemi.Identity{Project: "p", Permissions: kemi.LogsRead}, "line", kemi.NanosOf(minute), kemi.NanosOf(minute.Add(time.Minute)), nil)
	if err != nil || len(got) != 1 || got[0].Count != 10 {
		t.Errorf("Count: %+v, %v", got, err)
	}

	id := s.ask("query", "query", `"line 10"`).Records[0]
	for _, at := range []string{"", id.NS} {
		a := s.ask("context", "id", id.ID, "before", "2", "after", "3", "at", at)
		if a.bodies() != "line 6|line 8|line 10|line 12|line 14|line 16" {
			t.Errorf("context: %s", a.bodies())
		}
	}
}

// events reads server-sent events.
type events struct {
	*bufio.Reader
	resp *http.Response
}

func (s *server) tail(query, project string) *events {
	s.t.Helper()
	req, _ := http.NewRequestWithContext(s.t.Context(), "GET", s.URL+"/api/v2/logs/tail?"+url.Values{"query": {query}}.Encode(), nil)
	req.Header.Set("X-Kemi-Project", project)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	e := &events{bufio.NewReaderSize(resp.Body, 4<<20), resp}
	s.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		b, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("tail: %d %s", resp.StatusCode, b)
	}
	if line, err := e.ReadString('\n'); err != nil || !strings.HasPrefix(line, ":") {
		s.t.Fatalf("tail begins with %q, %v", line, err)
	}
	return e
}

// next is the next event and its data; nothing at the end.
func (e *events) next() (event, data string) {
	for {
		line, err := e.ReadString('\n')
		switch {
		case err != nil:
			return "", ""
		case line == "\n" && data != "":
			return event, data
		case strings.HasPrefix(line, "event: "):
			event = strings.TrimSpace(line[7:])
		case strings.HasPrefix(line, "data: "):
			data = strings.TrimSpace(line[6:])
		}
	}
}

func (e *events) body(t *testing.T) string {
	t.Helper()
	_, data := e.next()
	var r struct{ Body string }
	if err := json.Unmarshal([]byte(data), &r); err != nil {
		t.Fatalf("data %q: %v", data, err)
	}
	return r.Body
}

func TestTail(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("follow", func(t *testing.T) {
		defer http.DefaultClient.CloseIdleConnections()
		s := newServer(t, logs.Config{})
		now := kemi.NanosOf(time.Now())
		s.publish("p", "", kemi.LogRecord{At: now, Severity: kemi.SeverityError, Body: "before"})
		all, errs, other := s.tail("", "p"), s.tail(`level:error 실패 -host:h9`, "p"), s.tail("", "q")
		s.publish("q", "", kemi.LogRecord{At: now, Body: "of q"})
		began := time.Now()
		s.publish("p", "",
			kemi.LogRecord{At: now + 3, Severity: kemi.SeverityError, Stream: kemi.LabelsOf("host", "h1"), Body: "결제 실패"},
			kemi.LogRecord{At: now + 1, Severity: kemi.SeverityError, Stream: kemi.LabelsOf("host", "h9"), Body: "다른 실패"},
			kemi.LogRecord{At: now + 2, Severity: kemi.SeverityInfo, Body: "fine"})
		s.publish("p", "", kemi.LogRecord{At: now + 4, Severity: kemi.SeverityError, Body: "또 실패"})
		if a, b, c, d := all.body(t), all.body(t), all.body(t), all.body(t); a != "다른 실패" || b != "fine" || c != "결제 실패" || d != "또 실패" {
			t.Errorf("all: %s, %s, %s, %s", a, b, c, d)
		}
		if a, b := errs.body(t), errs.body(t); a != "결제 실패" || b != "또 실패" {
			t.Errorf("errors: %s, %s", a, b)
		}
		if a := other.body(t); a != "of q" {
			t.Errorf("the other project sees %s", a)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %s", took)
		}
		// When the server stops the streams end.
		s.stop()
		if event, data := all.next(); data != "" {
			t.Errorf("after the end: %s %s", event, data)
		}
		if code, text := s.get("tail"); code != 503 {
			t.Errorf("a tail after the end: %d %s", code, text)
		}
	})
}

// TestTailDrops: who does not read is told how much was dropped, and costs nobody else anything.
func TestTailDrops(t *testing.T) {
	s := newServer(t, logs.Config{MaxRecords: 10, MaxStream: 10, MaxBytes: 1000, MaxConcurrent: 1, Timeout: time.Second, MaxWatchers: 2, WatchBytes: 4 << 20})
	slow := s.tail("", "p")
	quick := s.tail("last", "p")
	if code, text := s.get("tail"); code != 429 || !strings.Contains(text, "maxWatchers") {
		t.Errorf("one more than may watch: %d %s", code, text)
	}
	const batches, each = 100, 10
	line := strings.Repeat("z", 90_000)
	for i := range batches { // 90 MB, which no socket buffer holds
		var rs []kemi.LogRecord
		for range each {
			rs = append(rs, kemi.LogRecord{At: kemi.NanosOf(time.Now()), Body: line})
		}
		if i == batches-1 {
			rs = append(rs, kemi.LogRecord{At: kemi.NanosOf(time.Now()), Body: "last one"})
		}
		if err := s.bus.Publish(t.Context(), bus.Logs, codec.EncodeLogBatch("p", "", rs)); err != nil {
			t.Fatal(err)
		}
	}
	event, data := quick.next()
	for event == "dropped" { // the machine may be slow; the newest is never dropped
		event, data = quick.next()
	}
	if !strings.Contains(data, "last one") {
		t.Errorf("the quick one sees %s %.80s", event, data)
	}
	got, dropped := 0, 0
	for {
		event, data = slow.next()
		if event == "dropped" {
			var d struct{ Records int }
			if err := json.Unmarshal([]byte(data), &d); err != nil || d.Records <= 0 {
				t.Fatalf("%s: %v", data, err)
			}
			dropped += d.Records
			continue
		}
		if data == "" {
			t.Fatal("the stream ended")
		}
		got++
		if strings.Contains(data, "last one") {
			break
		}
	}
	if dropped == 0 || got+dropped != batches*each+1 {
		t.Errorf("%d seen and %d dropped of %d", got, dropped, batches*each+1)
	}
}

// TestTailUndecodable: a record that cannot be read is left out and counted; the others go on.
func TestTailUndecodable(t *testing.T) {
	s := newServer(t, logs.Config{})
	e := s.tail("", "p")
	bad := bus.Record{Value: []byte("nonsense"), Headers: []bus.Header{{Name: codec.HeaderProject, Value: "p"}}}
	if err := s.bus.Publish(t.Context(), bus.Logs, []bus.Record{bad}); err != nil {
		t.Fatal(err)
	}
	s.publish("p", "", kemi.LogRecord{At: kemi.NanosOf(time.Now()), Body: "good"})
	if b := e.body(t); b != "good" {
		t.Errorf("got %s", b)
	}
}

func TestMetricsLint(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := logs.New(logs.Options{Registerer: reg}); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// TestBusy: who waits too long for his turn is told so.
func TestBusy(t *testing.T) {
	cfg := logs.DefaultConfig()
	cfg.MaxConcurrent, cfg.Timeout = 1, 50*time.Millisecond
	l, err := logs.New(logs.Options{Config: cfg, Store: stuck{}, Freshness: func() store.Freshness { return store.Freshness{} }, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(l.Routes(), func(r kemi.Route) bool { return r.Pattern == "GET /api/v2/logs/count" })
	codes := make(chan *bytes.Buffer, 2)
	for range 2 {
		go func() {
			w := httptest.NewRecorder()
			l.Routes()[i].Handle(w, httptest.NewRequest("GET", "/api/v2/logs/count", nil), kemi.Identity{Project: "p", Permissions: kemi.LogsRead})
			if w.Code != 503 || w.Header().Get("Retry-After") == "" {
				t.Errorf("%d %v", w.Code, w.Header())
			}
			codes <- w.Body
		}()
	}
	all := (<-codes).String() + (<-codes).String()
	if !strings.Contains(all, "no answer within 50ms") {
		t.Errorf("answers %s", all)
	}
}

// stuck is a store that answers only when the time is over.
type stuck struct{ logs.Searcher }

func (stuck) Count(ctx context.Context, _ kemi.Identity, _ store.LogQuery, _ []string) ([]store.GroupCount, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
