package promql

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/teststorage"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/limit"
)

func get(h http.Handler, path, query string) *httptest.ResponseRecorder {
	form, err := url.ParseQuery(query)
	if err != nil {
		panic(err)
	}
	return ask(h, "GET", path, form)
}

func TestStats(t *testing.T) {
	fresh := store.Freshness{AsOf: 12345, Complete: true}
	h := testAPI(t, testStorage(t), func(_ *Config, o *Options) { o.Freshness = func() store.Freshness { return fresh } })
	w := get(h, "/api/v1/query_range", "query=up&start=0&end=540&step=60")
	var s queryStats
	if err := json.Unmarshal([]byte(w.Header().Get("X-Kemi-Stats")), &s); err != nil {
		t.Fatal(err)
	}
	if s.SamplesRead != 29 || s.Series != 3 || !s.Complete || len(s.Views) != 1 || s.Views[0] != (viewStats{"tsdb", 12345}) {
		t.Errorf("stats %+v", s)
	}
	if strings.Contains(w.Body.String(), `"stats"`) {
		t.Error("stats in the body though nobody asked")
	}
	for param, want := range map[string]string{"true": `"samplesRead":2`, "all": `"totalQueryableSamplesPerStep":[`} {
		w := get(h, "/api/v1/query", "query=up&time=540&stats="+param)
		if !strings.Contains(w.Body.String(), want) || !strings.Contains(w.Body.String(), `"timings":{"evalTotalTime":`) {
			t.Errorf("stats=%s: %s", param, w.Body)
		}
	}
	fresh = store.Freshness{Reason: "replay under way: 7 records left"}
	w = get(h, "/api/v1/query", "query=up&time=540")
	if !strings.Contains(w.Body.String(), `"warnings":["the answer is not complete: replay under way: 7 records left"]`) {
		t.Errorf("no warning: %s", w.Body)
	}
	if err := json.Unmarshal([]byte(w.Header().Get("X-Kemi-Stats")), &s); err != nil || s.Complete || s.Reason == "" {
		t.Errorf("stats %+v, %v", s, err)
	}
	for _, path := range []string{"/api/v1/series", "/api/v1/labels", "/api/v1/label/job/values"} {
		w := get(h, path, "match[]=up")
		if !strings.Contains(w.Body.String(), `"warnings":["the answer is not complete: `) || !strings.Contains(w.Header().Get("X-Kemi-Stats"), `"complete":false`) {
			t.Errorf("%s: %s %s", path, w.Header().Get("X-Kemi-Stats"), w.Body)
		}
	}
}

// slowSource answers when it is let to, or when its caller gives up.
type slowSource struct {
	err     error
	started chan struct{}
	free    chan struct{}
}

func (s slowSource) Queryable(kemi.Identity) storage.Queryable {
	return storage.QueryableFunc(func(int64, int64) (storage.Querier, error) { return slowQuerier{storage.NoopQuerier(), s}, nil })
}

type slowQuerier struct {
	storage.Querier
	s slowSource
}

func (q slowQuerier) Select(ctx context.Context, _ bool, _ *storage.SelectHints, _ ...*labels.Matcher) storage.SeriesSet {
	if q.s.err != nil {
		return storage.ErrSeriesSet(q.s.err)
	}
	q.s.started <- struct{}{}
	select {
	case <-q.s.free:
		return storage.EmptySeriesSet()
	case <-ctx.Done():
		return storage.ErrSeriesSet(ctx.Err())
	}
}

func slowAPI(t *testing.T, cfg Config, s slowSource, change ...func(*Options)) http.Handler {
	o := Options{Source: s}
	for _, c := range change {
		c(&o)
	}
	a, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, r := range a.Routes() {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) { r.Handle(w, req, reader) })
	}
	return mux
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := slowAPI(t, DefaultConfig(), slowSource{started: make(chan struct{}, 9), free: make(chan struct{})})
		for query, want := range map[string]time.Duration{"query=up": 2 * time.Minute, "query=up&timeout=5s": 5 * time.Second, "query=up&timeout=1h": 2 * time.Minute} {
			began := time.Now()
			w := get(h, "/api/v1/query", query)
			if w.Code != 503 || !strings.Contains(w.Body.String(), `"errorType":"timeout"`) || time.Since(began) != want {
				t.Errorf("%s: after %v: %d %s", query, time.Since(began), w.Code, w.Body)
			}
		}
		r := httptest.NewRequest("GET", "/api/v1/query?query=up", nil)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(ctx))
		if w.Code != 499 || !strings.Contains(w.Body.String(), `"errorType":"canceled"`) {
			t.Errorf("client gone: %d %s", w.Code, w.Body)
		}
	})
}

func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := limit.DefaultConfig()
		c.Concurrent, c.PerIdentity, c.Waiting = 4, 2, 1
		gate, err := limit.New(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := slowSource{started: make(chan struct{}, 9), free: make(chan struct{})}
		h := slowAPI(t, DefaultConfig(), s, func(o *Options) { o.Gate = gate })
		codes := make(chan int, 3)
		for range 3 {
			go func() { codes <- get(h, "/api/v1/query", "query=up").Code }()
		}
		synctest.Wait()
		if len(s.started) != 2 {
			t.Fatalf("%d queries run", len(s.started))
		}
		w := get(h, "/api/v1/query", "query=up")
		if w.Code != 429 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "test has 2 queries running (limits.perIdentity = 2) and 1 waiting (limits.waiting = 1)") {
			t.Errorf("one too many: %d %s", w.Code, w.Body)
		}
		close(s.free)
		for range 3 {
			if c := <-codes; c != 200 {
				t.Errorf("status %d", c)
			}
		}
		if w := get(h, "/api/v1/query", "query=up"); w.Code != 200 {
			t.Errorf("afterwards: %d %s", w.Code, w.Body)
		}
	})
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		kind string
	}{
		{errors.New("disk on fire"), 422, "execution"},
		{kemi.Errorf(kemi.ErrDenied, "no project"), 403, "forbidden"},
		{kemi.Errorf(kemi.ErrUnavailable, "starting"), 503, "unavailable"},
		{kemi.Errorf(kemi.ErrLimited, "quota"), 429, "unavailable"},
		{kemi.Errorf(kemi.ErrInvalid, "bad"), 400, "bad_data"},
	} {
		w := get(slowAPI(t, DefaultConfig(), slowSource{err: c.err}), "/api/v1/query", "query=up")
		if w.Code != c.code || !strings.Contains(w.Body.String(), `"errorType":"`+c.kind+`"`) {
			t.Errorf("%v: %d %s", c.err, w.Code, w.Body)
		}
	}
	cfg := func(c *Config, _ *Options) { c.MaxSamples = 10 }
	w := get(testAPI(t, testStorage(t), cfg), "/api/v1/query_range", "query=up&start=0&end=540&step=60")
	if w.Code != 422 || !strings.Contains(w.Body.String(), "query processing would load too many samples into memory in query execution") {
		t.Errorf("too many samples: %d %s", w.Code, w.Body)
	}
	for name, c := range map[string]struct {
		change func(*Config, *Options)
		kind   string
		say    string
	}{
		"samples held": {cfg, "execution", "more than promql.maxSamples = 10 at once: select fewer series"},
		"samples read": {func(c *Config, _ *Options) { c.MaxSamplesRead = 7 }, "cost_limit", "promql.maxSamplesRead = 7: select fewer series or a shorter range"},
		"series":       {func(c *Config, _ *Options) { c.MaxSeries = 64 }, "execution", "query selects more series than promql.maxSeries = 64: name a metric, or more labels"},
		"memory": {func(_ *Config, o *Options) {
			c := limit.DefaultConfig()
			c.Memory, c.MemoryPerIdentity = 1<<20, 1<<16
			o.Gate, _ = limit.New(c, nil)
		}, "execution", "query needs more memory than limits.memoryPerIdentity = 0 MiB"},
	} {
		w := get(testAPI(t, manySeries(t, 70), c.change), "/api/v1/query_range", "query=many&start=0&end=540&step=1")
		if w.Code != 422 || !strings.Contains(w.Body.String(), c.say) || !strings.Contains(w.Body.String(), `"errorType":"`+c.kind+`"`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	small := limit.DefaultConfig()
	small.Memory, small.MemoryPerIdentity = 1<<20, 1<<16
	list := testAPI(t, manySeries(t, 1000), func(_ *Config, o *Options) { o.Gate, _ = limit.New(small, nil) })
	if w := get(list, "/api/v1/series", "match[]=many"); w.Code != 422 || !strings.Contains(w.Body.String(), "query needs more memory than limits.memoryPerIdentity = 0 MiB") {
		t.Errorf("list of series: %d %.300s", w.Code, w.Body)
	}
	for range 3 { // what was held is given back
		if w := get(list, "/api/v1/series", "match[]=many&limit=100"); w.Code != 200 {
			t.Errorf("list of 100 series: %d %.300s", w.Code, w.Body)
		}
	}
	for header, code := range map[string]int{"true": 200, "0": 200, "maybe": 400} {
		r := httptest.NewRequest("GET", "/api/v1/query?query=up", nil)
		r.Header.Set("X-Prometheus-Use-Start-Timestamps", header)
		w := httptest.NewRecorder()
		if testAPI(t, testStorage(t), nil).ServeHTTP(w, r); w.Code != code {
			t.Errorf("start timestamps %s: %d %s", header, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest("POST", "/api/v1/query", strings.NewReader("query="+strings.Repeat("a", maxForm)))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	testAPI(t, testStorage(t), nil).ServeHTTP(rec, r)
	if rec.Code != 413 {
		t.Errorf("form of 10 MB: %d %s", rec.Code, rec.Body)
	}
}

func manySeries(t *testing.T, n int) *teststorage.TestStorage {
	var load strings.Builder
	load.WriteString("load 1m\n")
	for i := range n {
		fmt.Fprintf(&load, "  many{i=\"%d\"} 1+1x9\n", i)
	}
	return promqltest.LoadedStorage(t, load.String())
}

func TestInstant(t *testing.T) {
	a, err := New(DefaultConfig(), Options{Source: testSource{testStorage(t)}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.Instant(t.Context(), reader, `sum(up{job="api"})`, time.Unix(540, 0))
	if err != nil || len(v) != 1 || v[0].F != 2 || v[0].T != 540_000 {
		t.Errorf("vector: %v, %v", v, err)
	}
	v, err = a.Instant(t.Context(), reader, `3`, time.Unix(540, 0))
	if err != nil || len(v) != 1 || v[0].F != 3 {
		t.Errorf("scalar: %v, %v", v, err)
	}
	for _, bad := range []string{`"text"`, `up[5m]`, `sum(`, `nosuchfunction(up)`} {
		if _, err := a.Instant(t.Context(), reader, bad, time.Unix(540, 0)); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

type someMetadata struct{}

func (someMetadata) Metadata(_ kemi.Identity, metric string) map[string]metadata.Metadata {
	all := map[string]metadata.Metadata{"up": {Type: "gauge", Help: "Whether it is up."}, "lat": {Type: "histogram", Unit: "seconds", Help: "<latency>"}}
	if metric != "" {
		return map[string]metadata.Metadata{metric: all[metric]}
	}
	return all
}

func TestMetadata(t *testing.T) {
	h := testAPI(t, testStorage(t), func(_ *Config, o *Options) { o.Metadata = someMetadata{} })
	for query, want := range map[string]string{
		"":                   `{"lat":[{"type":"histogram","unit":"seconds","help":"\u003clatency\u003e"}],"up":[{"type":"gauge","unit":"","help":"Whether it is up."}]}`,
		"metric=up":          `{"up":[{"type":"gauge","unit":"","help":"Whether it is up."}]}`,
		"limit=1":            `{"lat":[{"type":"histogram","unit":"seconds","help":"\u003clatency\u003e"}]}`,
		"limit=0":            `{}`,
		"limit_per_metric=1": `{"lat":[{"type":"histogram","unit":"seconds","help":"\u003clatency\u003e"}],"up":[{"type":"gauge","unit":"","help":"Whether it is up."}]}`,
	} {
		if w := get(h, "/api/v1/metadata", query); w.Body.String() != `{"status":"success","data":`+want+`}` {
			t.Errorf("%q: %d %s", query, w.Code, w.Body)
		}
	}
	if w := get(h, "/api/v1/metadata", "limit=x"); w.Code != 400 {
		t.Errorf("limit=x: %d %s", w.Code, w.Body)
	}
	if w := get(h, "/api/v1/status/buildinfo", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"version":"3.`) {
		t.Errorf("build info: %d %s", w.Code, w.Body)
	}
}

func readBody(t *testing.T, types ...prompb.ReadRequest_ResponseType) []byte {
	req := prompb.ReadRequest{AcceptedResponseTypes: types, Queries: []*prompb.Query{
		{StartTimestampMs: 60_000, EndTimestampMs: 300_000, Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "up"}, {Type: prompb.LabelMatcher_RE, Name: "job", Value: "a.."}}},
		{StartTimestampMs: 0, EndTimestampMs: 60_000, Matchers: []*prompb.LabelMatcher{{Name: "__name__", Value: "native"}}},
	}}
	b, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, b)
}

func postRead(h http.Handler, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/api/v1/read", bytes.NewReader(body)))
	return w
}

func TestReadSamples(t *testing.T) {
	w := postRead(testAPI(t, testStorage(t), nil), readBody(t))
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/x-protobuf" || w.Header().Get("Content-Encoding") != "snappy" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	b, err := snappy.Decode(nil, w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var res prompb.ReadResponse
	if err := res.Unmarshal(b); err != nil {
		t.Fatal(err)
	}
	if len(res.Results) != 2 || len(res.Results[0].Timeseries) != 2 || len(res.Results[1].Timeseries) != 1 {
		t.Fatalf("%v", res)
	}
	for _, ts := range res.Results[0].Timeseries {
		if n := len(ts.Samples); n != 4 && n != 5 || ts.Samples[0].Timestamp != 60_000 { // a:1 has a gap
			t.Errorf("%v", ts)
		}
	}
	if h := res.Results[1].Timeseries[0].Histograms; len(h) != 2 || h[0].GetSum() != 5 {
		t.Errorf("histograms %v", h)
	}
}

func TestReadChunks(t *testing.T) {
	w := postRead(testAPI(t, testStorage(t), nil), readBody(t, prompb.ReadRequest_STREAMED_XOR_CHUNKS, prompb.ReadRequest_SAMPLES))
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	r := bytes.NewReader(w.Body.Bytes())
	samples := map[int64]int{}
	for {
		n, err := binary.ReadUvarint(r)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4+n)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		if crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(b) {
			t.Fatal("checksum")
		}
		var res prompb.ChunkedReadResponse
		if err := res.Unmarshal(b[4:]); err != nil {
			t.Fatal(err)
		}
		for _, s := range res.ChunkedSeries {
			for _, c := range s.Chunks {
				chunk, err := chunkenc.FromData(chunkenc.Encoding(c.Type), c.Data)
				if err != nil {
					t.Fatal(err)
				}
				samples[res.QueryIndex] += chunk.NumSamples()
			}
		}
	}
	if samples[0] != 9 || samples[1] != 2 {
		t.Errorf("samples by query: %v", samples)
	}
}

func TestReadBadInput(t *testing.T) {
	h := testAPI(t, testStorage(t), func(c *Config, _ *Options) { c.MaxReadSamples = 3 })
	badRegexp, _ := (&prompb.ReadRequest{Queries: []*prompb.Query{{Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_RE, Name: "a", Value: "("}}}}}).Marshal()
	noName, _ := (&prompb.ReadRequest{Queries: []*prompb.Query{{Matchers: []*prompb.LabelMatcher{{Value: "x"}}}}}).Marshal()
	for name, c := range map[string]struct {
		body []byte
		say  string
	}{
		"empty":         {nil, "is not snappy"},
		"not snappy":    {[]byte("\xff\xff\xff\xff\xffhello"), "is not snappy"},
		"bomb":          {binary.AppendUvarint(nil, 1<<31), "is not snappy of at most"},
		"not protobuf":  {snappy.Encode(nil, []byte("\x0a\xff\xff")), "is no prometheus.ReadRequest"},
		"bad regexp":    {snappy.Encode(nil, badRegexp), `matcher of label "a": value "("`},
		"no label name": {snappy.Encode(nil, noName), `matcher of label ""`},
		"too much":      {readBody(t), "exceeded sample limit (3)"},
	} {
		if w := postRead(h, c.body); w.Code != 400 || !strings.Contains(w.Body.String(), c.say) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for key, change := range map[string]func(*Config){
		"timeout": func(c *Config) { c.Timeout = 0 }, "maxSamples": func(c *Config) { c.MaxSamples = -1 }, "maxSeries": func(c *Config) { c.MaxSeries = 0 },
		"lookback": func(c *Config) { c.Lookback = 0 }, "subqueryStep": func(c *Config) { c.SubqueryStep = 1 },
		"maxReadSamples": func(c *Config) { c.MaxReadSamples = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), key+": value ") {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := New(c, Options{Source: slowSource{}}); err == nil {
			t.Errorf("%s: New takes it", key)
		}
	}
	if _, err := New(DefaultConfig(), Options{}); err == nil {
		t.Error("New takes no source")
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "a", "\"\\\n\r\t\x00\x1f", "결제 서비스", "\xff\xfe", "\u2028\u2029", "\ufffd", "\xed\xa0\x80", "a\xffb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && got != s || !utf8.ValidString(s) && strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

// FuzzAppendFloat: the short way finds the digits that strconv finds.
func FuzzAppendFloat(f *testing.F) {
	for _, v := range []float64{0, math.Copysign(0, -1), 1, -1, 0.1, 0.5, 12.34, -99.999, 1234567.891, 999999999999.999, 1e12, -1e12, 1e-3, 1.0005, 0.30000000000000004, math.NaN(), math.Inf(1), 1e21, 1e-7, 4503599627370497.5} {
		f.Add(v, int64(v*1000)%1e15)
	}
	f.Fuzz(func(t *testing.T, v float64, m int64) {
		for _, v := range []float64{v, float64(m) / 1000, float64(m) / 100, float64(m)} {
			want := strconv.FormatFloat(v, 'f', -1, 64)
			if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
				want = strconv.FormatFloat(v, 'e', -1, 64)
			}
			if got := string(appendFloat(nil, v)); got != `"`+want+`"` {
				t.Fatalf("%b: %s, want %q", v, got, want)
			}
		}
	})
}

func TestAppendTime(t *testing.T) {
	for ms, want := range map[int64]string{0: "0", 1: "0.001", 999: "0.999", 1000: "1", 1500: "1.500", -1: "-0.001", -1500: "-1.500", 1515917973043: "1515917973.043",
		math.MinInt64: "-9223372036854775.808", math.MaxInt64: "9223372036854775.807"} {
		if got := string(appendTime(nil, ms)); got != want {
			t.Errorf("%d: %s, want %s", ms, got, want)
		}
	}
}

func BenchmarkEncodeMatrix(b *testing.B) {
	s := promql.Series{}
	for i := range 10_000 {
		s.Floats = append(s.Floats, promql.FPoint{T: 1515917973043 + int64(i)*15000, F: float64(i) / 7})
	}
	var buf []byte
	for b.Loop() {
		buf = appendSeries(buf[:0], s, nil)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/point")
}
