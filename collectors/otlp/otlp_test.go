package otlp

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

// at is a time of today, in ms; the tests' points have times after it.
var at = time.Now().Add(-time.Hour).Truncate(time.Minute).UnixMilli()

func ns(ms int64) pcommon.Timestamp { return pcommon.Timestamp(ms * 1e6) }

func open(t testing.TB, change func(*Config)) (*collectortest.House, *Receiver) {
	t.Helper()
	h := collectortest.Open(t, nil)
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg, Options{In: h.Push, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h.Serve(r.Routes())
	return h, r
}

// request makes a request of one resource and one scope.
func request(add func(pmetric.MetricSlice)) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr("service.name", "pay")
	a.PutStr("service.namespace", "shop")
	a.PutStr("service.instance.id", "i-1")
	a.PutStr("host.name", "web-1")
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName("scope")
	add(sm.Metrics())
	return md
}

func body(t testing.TB, md pmetric.Metrics) []byte {
	t.Helper()
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func send(h *collectortest.House, b []byte) string {
	h.Helper()
	status, text, header := h.Post("/v1/metrics", b, "Content-Type", mediaProtobuf)
	resp := pmetricotlp.NewExportResponse()
	if err := resp.UnmarshalProto([]byte(text)); err != nil || status != http.StatusOK || header.Get("Content-Type") != mediaProtobuf {
		h.Fatalf("%d %q %v", status, text, err)
	}
	if n := resp.PartialSuccess().RejectedDataPoints(); n > 0 {
		return fmt.Sprint(n, " ", resp.PartialSuccess().ErrorMessage())
	}
	return ""
}

// allKinds is a metric of each kind.
func allKinds(ms pmetric.MetricSlice) {
	g := ms.AppendEmpty()
	g.SetName("room.temperature")
	g.SetUnit("Cel")
	p := g.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(ns(at))
	p.SetDoubleValue(21.5)
	p.Attributes().PutStr("room", "east")
	p.Attributes().PutInt("floor", 3)

	c := ms.AppendEmpty()
	c.SetName("http.requests")
	c.SetDescription("Requests.")
	s := c.SetEmptySum()
	s.SetIsMonotonic(true)
	s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p = s.DataPoints().AppendEmpty()
	p.SetStartTimestamp(ns(at - 60_000))
	p.SetTimestamp(ns(at))
	p.SetIntValue(7)
	p = s.DataPoints().AppendEmpty() // with an exemplar: goes the other way
	p.SetStartTimestamp(ns(at - 60_000))
	p.SetTimestamp(ns(at))
	p.SetIntValue(9)
	p.Attributes().PutStr("path", "/x")
	e := p.Exemplars().AppendEmpty()
	e.SetTimestamp(ns(at - 10))
	e.SetIntValue(1)
	e.SetTraceID([16]byte{1, 2})

	u := ms.AppendEmpty()
	u.SetName("queue.length")
	s = u.SetEmptySum()
	s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p = s.DataPoints().AppendEmpty()
	p.SetTimestamp(ns(at))
	p.SetIntValue(-2)

	hm := ms.AppendEmpty()
	hm.SetName("latency")
	hm.SetUnit("s")
	hs := hm.SetEmptyHistogram()
	hs.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	hp := hs.DataPoints().AppendEmpty()
	hp.SetStartTimestamp(ns(at - 60_000))
	hp.SetTimestamp(ns(at))
	hp.SetCount(6)
	hp.SetSum(1.5)
	hp.ExplicitBounds().FromRaw([]float64{0.1, 1})
	hp.BucketCounts().FromRaw([]uint64{3, 2, 1})

	em := ms.AppendEmpty()
	em.SetName("size")
	em.SetUnit("By")
	es := em.SetEmptyExponentialHistogram()
	es.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	ep := es.DataPoints().AppendEmpty()
	ep.SetTimestamp(ns(at))
	ep.SetCount(4)
	ep.SetSum(10)
	ep.SetScale(1)
	ep.SetZeroCount(1)
	ep.Positive().SetOffset(2)
	ep.Positive().BucketCounts().FromRaw([]uint64{1, 0, 2})

	sm := ms.AppendEmpty()
	sm.SetName("gc")
	sp := sm.SetEmptySummary().DataPoints().AppendEmpty()
	sp.SetTimestamp(ns(at))
	sp.SetCount(5)
	sp.SetSum(2)
	q := sp.QuantileValues().AppendEmpty()
	q.SetQuantile(0.5)
	q.SetValue(0.25)

	gone := ms.AppendEmpty()
	gone.SetName("gone")
	p = gone.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(ns(at))
	p.SetFlags(noRecordedValue)
}

var noRecordedValue = pmetric.DefaultDataPointFlags.WithNoRecordedValue(true)

func allSamples(at int64) []string {
	const l = `host="web-1",instance="i-1",job="shop/pay"`
	var out []string
	for _, f := range []string{
		`room_temperature_celsius{floor="3",%l,room="east"} 21.5 @%t`,
		`http_requests_total{%l} 7 @%t start=%s`, `http_requests_total{%l,path="/x"} 9 @%t start=%s`, `queue_length{%l} -2 @%t`,
		`latency_seconds_bucket{%l,le="+Inf"} 6 @%t start=%s`, `latency_seconds_bucket{%l,le="0.1"} 3 @%t start=%s`, `latency_seconds_bucket{%l,le="1"} 5 @%t start=%s`,
		`latency_seconds_count{%l} 6 @%t start=%s`, `latency_seconds_sum{%l} 1.5 @%t start=%s`,
		`gc{%l,quantile="0.5"} 0.25 @%t`, `gc_count{%l} 5 @%t`, `gc_sum{%l} 2 @%t`, `gone{%l} NaN @%t`,
		`target_info{host="web-1",host_name="web-1",instance="i-1",job="shop/pay"} 1 @%t`,
	} {
		out = append(out, strings.NewReplacer("%l", l, "%t", fmt.Sprint(at), "%s", fmt.Sprint(at-60_000)).Replace(f))
	}
	return out
}

func TestAllKinds(t *testing.T) {
	h, _ := open(t, nil)
	b := body(t, request(allKinds))
	for range 2 { // new series, then known ones
		if told := send(h, b); told != "" {
			t.Fatal(told)
		}
	}
	h.Expect(append(allSamples(at), allSamples(at)...)...)
	batches := h.Batches()
	c := batches[0].Complex
	if len(c.Histograms) != 1 || len(c.Exemplars) != 1 || len(batches[1].Complex.Metadata) != 0 {
		t.Fatalf("%d histograms, %d exemplars, told again of %v", len(c.Histograms), len(c.Exemplars), batches[1].Complex.Metadata)
	}
	if x := c.Histograms[0]; x.Count != 4 || x.Sum != 10 || x.Schema != 1 || x.ZeroCount != 1 || len(x.PositiveSpans) == 0 || x.At != kemi.Millis(at) ||
		collectortest.Name(batches[0].Labels(int(x.Series))) != `size_bytes{host="web-1",instance="i-1",job="shop/pay"}` {
		t.Errorf("histogram %+v", x)
	}
	if x := c.Exemplars[0]; x.Value != 1 || x.At != kemi.Millis(at-10) || x.Labels.Get("trace_id") != "01020000000000000000000000000000" {
		t.Errorf("exemplar %+v", x)
	}
	var metadata []string
	for _, m := range c.Metadata {
		metadata = append(metadata, fmt.Sprintf("%s %s %s %s", m.Metric, m.Type, m.Unit, m.Help))
	}
	for _, want := range []string{
		"room_temperature_celsius gauge celsius ", "http_requests_total counter  Requests.", "queue_length gauge  ", "latency_seconds histogram seconds ", "size_bytes histogram bytes ", "gc summary  ",
	} {
		if !slices.Contains(metadata, want) {
			t.Errorf("no %q in %q", want, metadata)
		}
	}
}

// TestSameAsTheTranslation holds the short way of numbers against the translation of the whole request.
func TestSameAsTheTranslation(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"default":    nil,
		"all":        func(c *Config) { c.PromoteAllResourceAttributes = true },
		"some":       func(c *Config) { c.PromoteResourceAttributes, c.HostLabel = []string{"host.name", "service.name"}, "" },
		"scope":      func(c *Config) { c.PromoteScopeMetadata, c.KeepIdentifyingResourceAttributes = true, true },
		"dots":       func(c *Config) { c.TranslationStrategy = "NoUTF8EscapingWithSuffixes" },
		"as it is":   func(c *Config) { c.TranslationStrategy = "NoTranslation" },
		"without":    func(c *Config) { c.TranslationStrategy = "UnderscoreEscapingWithoutSuffixes" },
		"NHCB":       func(c *Config) { c.ConvertHistogramsToNHCB = true },
		"raw deltas": func(c *Config) { c.Delta = "raw" },
	} {
		t.Run(name, func(t *testing.T) {
			h, r := open(t, change)
			md := request(allKinds)
			second := md.ResourceMetrics().AppendEmpty() // of another time, and without an identity
			second.Resource().Attributes().PutStr("zone", "z1")
			allKinds(second.ScopeMetrics().AppendEmpty().Metrics())
			if told := send(h, body(t, md)); told != "" {
				t.Fatal(told)
			}
			whole, err := r.parse(body(t, md))
			if err != nil {
				t.Fatal(err)
			}
			samples, err := r.translate(t.Context(), whole, true)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			histograms := 0
			for _, s := range samples {
				if s.h != nil || s.fh != nil {
					histograms++
					continue
				}
				line := fmt.Sprintf("%s %v @%d", collectortest.Name(labelsOf(s.labels).Normalize()), s.value, s.at)
				if s.start != 0 {
					line += fmt.Sprintf(" start=%d", s.start)
				}
				want = append(want, line)
			}
			h.Expect(want...)
			if got := len(h.Batches()[0].Complex.Histograms); got != histograms {
				t.Errorf("%d histograms, want %d", got, histograms)
			}
		})
	}
}

// TestTargetInfoOfALongTime sends ten minutes at once: target_info is there at least each lookback/2, for numbers as for histograms.
func TestTargetInfoOfALongTime(t *testing.T) {
	h, _ := open(t, nil)
	send(h, body(t, request(func(ms pmetric.MetricSlice) {
		m := ms.AppendEmpty()
		m.SetName("g")
		g := m.SetEmptyGauge()
		for i := range int64(11) {
			p := g.DataPoints().AppendEmpty()
			p.SetTimestamp(ns(at + i*60_000))
			p.SetIntValue(i)
		}
	})))
	var want []string
	for i := range int64(11) {
		want = append(want, fmt.Sprintf(`g{host="web-1",instance="i-1",job="shop/pay"} %d @%d`, i, at+i*60_000))
	}
	for i := range int64(5) {
		want = append(want, fmt.Sprintf(`target_info{host="web-1",host_name="web-1",instance="i-1",job="shop/pay"} 1 @%d`, at+i*150_000))
	}
	h.Expect(want...)
}

// TestTimesFarApart has points ten years apart, of every kind: target_info is bounded.
func TestTimesFarApart(t *testing.T) {
	h, _ := open(t, nil)
	far := at - 9*365*24*3600*1000
	send(h, body(t, request(func(ms pmetric.MetricSlice) {
		for _, t := range []int64{far, at} {
			g := ms.AppendEmpty()
			g.SetName("g")
			p := g.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetTimestamp(ns(t))
			p.SetIntValue(1)
			s := ms.AppendEmpty()
			s.SetName("s")
			s.SetEmptySummary().DataPoints().AppendEmpty().SetTimestamp(ns(t))
		}
	})))
	if told := send(h, body(t, request(func(ms pmetric.MetricSlice) { // beyond what is taken
		s := ms.AppendEmpty()
		s.SetName("s")
		s.SetEmptySummary().DataPoints().AppendEmpty().SetTimestamp(ns(at))
		s.Summary().DataPoints().AppendEmpty().SetTimestamp(1)
		s.Summary().DataPoints().AppendEmpty().SetTimestamp(1 << 63)
	}))); !strings.HasPrefix(told, "2 2 of 3") {
		t.Error(told)
	}
	n := 0
	for _, s := range h.Samples() {
		if strings.HasPrefix(s, "target_info") {
			n++
		}
	}
	if n < 1000 || n > 2*maxInfos+3 {
		t.Errorf("%d samples of target_info", n)
	}
}

func TestEncodings(t *testing.T) {
	h, _ := open(t, nil)
	raw := body(t, request(allKinds))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(raw)
	_ = z.Close()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	js, err := pmetricotlp.NewExportRequestFromMetrics(request(allKinds)).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body     []byte
		kind     string
		encoding string
		answer   string
	}{
		{raw, mediaProtobuf, "", ""}, {zipped.Bytes(), mediaProtobuf, "gzip", ""}, {e.EncodeAll(raw, nil), mediaProtobuf, "zstd", ""}, {js, mediaJSON + "; charset=utf-8", "", "{}"},
	} {
		if status, text, _ := h.Post("/v1/metrics", c.body, "Content-Type", c.kind, "Content-Encoding", c.encoding); status != 200 || text != c.answer {
			t.Errorf("%s %s: %d %q", c.kind, c.encoding, status, text)
		}
	}
	h.Expect(slices.Repeat(allSamples(at), 4)...)
}

// TestJSON sends what the specification writes: names in lowerCamelCase, 64-bit integers as texts, ids in hexadecimal, enums as numbers, and a field
// that nobody knows.
func TestJSON(t *testing.T) {
	h, _ := open(t, nil)
	js := fmt.Sprintf(`{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"pay"}}]},"scopeMetrics":[{"scope":{"name":"s","version":"1"},"metrics":[
	{"name":"hits","unit":"1","description":"d","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{"asInt":"9007199254740993","startTimeUnixNano":"%d","timeUnixNano":"%d",
	  "attributes":[{"key":"ok","value":{"boolValue":true}},{"key":"n","value":{"intValue":"5"}}],"exemplars":[{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174","asDouble":2,"timeUnixNano":"%d"}]}]}},
	{"name":"g","gauge":{"dataPoints":[{"asDouble":1.5,"timeUnixNano":"%d"}]},"somethingNew":{"a":[1]}}]}]}]}`, (at-1000)*1e6, at*1e6, at*1e6, at*1e6)
	if status, text, _ := h.Post("/v1/metrics", []byte(js), "Content-Type", mediaJSON); status != 200 || text != "{}" {
		t.Fatalf("%d %s", status, text)
	}
	h.Expect(fmt.Sprintf(`hits_total{job="pay",n="5",ok="true"} 9.007199254740992e+15 @%d start=%d`, at, at-1000), fmt.Sprintf(`g{job="pay"} 1.5 @%d`, at))
	if x := h.Batches()[0].Complex.Exemplars; len(x) != 1 || x[0].Labels.Get("trace_id") != "5b8efff798038103d269b633813fc60c" || x[0].Labels.Get("span_id") != "eee19b7ec3c1b174" {
		t.Errorf("exemplars %+v", x)
	}
	for bad, why := range map[string]string{"": "", "[]": "", `{"resourceMetrics":5}`: "", `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"gauge":{"dataPoints":[{"asInt":"x"}]}}]}]}]}`: "", "{": ""} {
		status, text, header := h.Post("/v1/metrics", []byte(bad), "Content-Type", mediaJSON)
		if status != 400 || !strings.Contains(text, `"code":3`) || !strings.Contains(text, why) || header.Get("Content-Type") != mediaJSON {
			t.Errorf("%q: %d %s", bad, status, text)
		}
	}
}

func TestUnreadable(t *testing.T) {
	h, _ := open(t, nil)
	raw := body(t, request(allKinds))
	for name, c := range map[string]struct {
		body     []byte
		kind     string
		encoding string
		status   int
	}{
		"cut":       {raw[:len(raw)-3], mediaProtobuf, "", 400},
		"text":      {[]byte("cpu usage=1"), mediaProtobuf, "", 400},
		"no type":   {raw, "", "", 415},
		"other":     {raw, "text/plain", "", 415},
		"not gzip":  {raw, mediaProtobuf, "gzip", 400},
		"encoding":  {raw, mediaProtobuf, "br", 415},
		"logs' way": {[]byte{0x0a, 0x02, 0x08, 0x01}, mediaProtobuf, "", 400},
	} {
		if status, text, _ := h.Post("/v1/metrics", c.body, "Content-Type", c.kind, "Content-Encoding", c.encoding); status != c.status {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "disk full"))
	status, text, header := h.Post("/v1/metrics", raw, "Content-Type", mediaProtobuf)
	if status != 503 || header.Get("Retry-After") == "" || !strings.Contains(text, "disk full") {
		t.Errorf("%d %q", status, text)
	}
	h.Fault.Set(nil)
	h.Expect()
}

// TestRejected sends points that are wrong, each beside one that is good: the good ones are kept, and each wrong one is counted and told.
func TestRejected(t *testing.T) {
	for name, c := range map[string]struct {
		add  func(pmetric.Metric)
		n    int
		want string
	}{
		"no value": {func(m pmetric.Metric) { m.SetEmptyGauge().DataPoints().AppendEmpty().SetTimestamp(ns(at)) }, 1, "neither as_double nor as_int"},
		"no time":  {func(m pmetric.Metric) { m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(1) }, 1, "without time_unix_nano"},
		"old": {func(m pmetric.Metric) {
			p := m.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetIntValue(1)
			p.SetTimestamp(1e9)
		}, 1, "time must be between"},
		"temporality": {func(m pmetric.Metric) {
			s := m.SetEmptySum()
			for range 2 {
				p := s.DataPoints().AppendEmpty()
				p.SetIntValue(1)
				p.SetTimestamp(ns(at))
			}
		}, 2, "aggregation_temporality 0"},
		"label": {func(m pmetric.Metric) {
			p := m.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetIntValue(1)
			p.SetTimestamp(ns(at))
			p.Attributes().PutStr("a", strings.Repeat("x", 20_000))
		}, 1, "value of 20000 bytes"},
		"buckets": {func(m pmetric.Metric) {
			s := m.SetEmptyHistogram()
			s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := s.DataPoints().AppendEmpty()
			p.SetTimestamp(ns(at))
			p.ExplicitBounds().FromRaw([]float64{1, 2})
			p.BucketCounts().FromRaw([]uint64{1, 2})
		}, 1, "2 bucket_counts for 2 explicit_bounds"},
		"bounds": {func(m pmetric.Metric) {
			s := m.SetEmptyHistogram()
			s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := s.DataPoints().AppendEmpty()
			p.SetTimestamp(ns(at))
			p.ExplicitBounds().FromRaw([]float64{2, 1})
			p.BucketCounts().FromRaw([]uint64{1, 2, 0})
		}, 1, "explicit_bounds 1"},
		"old histogram": {func(m pmetric.Metric) { // many samples, one point
			s := m.SetEmptyHistogram()
			s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := s.DataPoints().AppendEmpty()
			p.SetTimestamp(1e9)
			p.ExplicitBounds().FromRaw([]float64{1, 2})
			p.BucketCounts().FromRaw([]uint64{1, 2, 0})
		}, 1, "time must be between"},
		"scale": {func(m pmetric.Metric) {
			s := m.SetEmptyExponentialHistogram()
			s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			for _, scale := range []int32{-5, 31} {
				p := s.DataPoints().AppendEmpty()
				p.SetTimestamp(ns(at))
				p.SetScale(scale)
			}
		}, 2, "scale -5: must be at least -4"},
		"count": {func(m pmetric.Metric) {
			s := m.SetEmptyExponentialHistogram()
			s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := s.DataPoints().AppendEmpty()
			p.SetTimestamp(ns(at))
			p.SetCount(5)
			p.Positive().BucketCounts().FromRaw([]uint64{1})
		}, 1, "count 5"},
		"nothing": {func(m pmetric.Metric) {}, 1, "of no kind"},
		"no name": {func(m pmetric.Metric) {
			m.SetName("")
			p := m.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetIntValue(1)
			p.SetTimestamp(ns(at))
		}, 1, ""},
		"summary": {func(m pmetric.Metric) { m.SetEmptySummary().DataPoints().AppendEmpty() }, 1, "without time_unix_nano"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := open(t, nil)
			told := send(h, body(t, request(func(ms pmetric.MetricSlice) {
				m := ms.AppendEmpty()
				m.SetName("wrong")
				c.add(m)
				good := ms.AppendEmpty()
				good.SetName("good")
				p := good.SetEmptyGauge().DataPoints().AppendEmpty()
				p.SetIntValue(1)
				p.SetTimestamp(ns(at))
			})))
			if !strings.HasPrefix(told, fmt.Sprintf("%d %d of %d data points rejected", c.n, c.n, c.n+1)) || !strings.Contains(told, c.want) {
				t.Errorf("%q", told)
			}
			var names []string
			for _, s := range h.Samples() {
				name, _, _ := strings.Cut(s, "{")
				names = append(names, name)
			}
			if !slices.Equal(names, []string{"good", "target_info"}) {
				t.Errorf("stored %q", names)
			}
		})
	}
}

// TestSeriesLimit has room for some series only: those are stored, and the answer is 429.
func TestSeriesLimit(t *testing.T) {
	h := collectortest.Open(t, func(o *push.Options) { o.Series = &collectortest.Full{Left: 1} })
	r, err := New(DefaultConfig(), Options{In: h.Push, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h.Serve(r.Routes())
	status, text, header := h.Post("/v1/metrics", body(t, request(allKinds)), "Content-Type", mediaProtobuf)
	if status != 429 || header.Get("Retry-After") != "60" || !strings.Contains(text, "limit of series of project shop") {
		t.Errorf("%d %q %v", status, text, header)
	}
	if s := h.Samples(); len(s) != 1 {
		t.Errorf("stored %q", s)
	}
}

// FuzzRequest checks that no body makes the receiver panic, and that what it takes can be read from the log.
func FuzzRequest(f *testing.F) {
	f.Add(body(f, request(allKinds)))
	f.Add(body(f, request(func(ms pmetric.MetricSlice) { deltas(ms, at, 1) })))
	f.Add([]byte{0x0a, 0x02, 0x08, 0x01})
	h, r := open(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := r.in.Begin(h.ID, protocol, "", "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		defer out.End()
		w := &walker{r: r, ctx: t.Context(), project: "shop", out: out}
		if w.request(b) != nil {
			return
		}
		if w.rest() != nil {
			return
		}
		if w.points < 0 || w.rejected < 0 {
			t.Errorf("%d points, %d rejected", w.points, w.rejected)
		}
		if in := out.Take(); in != nil {
			record := in.Record
			record.Local = nil
			if _, err := codec.NewTable(nil, time.Now).Decode(&record); err != nil {
				t.Errorf("the record cannot be read: %v", err)
			}
		}
	})
}

func BenchmarkNumbers(b *testing.B) {
	h, r := open(b, nil)
	const metrics, points = 50, 40
	raw := body(b, request(func(ms pmetric.MetricSlice) {
		for i := range metrics {
			m := ms.AppendEmpty()
			m.SetName(fmt.Sprint("metric.", i))
			g := m.SetEmptyGauge()
			for j := range points {
				p := g.DataPoints().AppendEmpty()
				p.SetTimestamp(ns(at))
				p.SetDoubleValue(float64(j) * 1.25)
				p.Attributes().PutStr("cpu", fmt.Sprint("cpu", j))
				p.Attributes().PutStr("mode", "idle")
			}
		}
	}))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		out, _ := r.in.Begin(h.ID, protocol, "", "bench")
		w := &walker{r: r, ctx: b.Context(), project: "shop", out: out}
		if err := w.request(raw); err != nil || w.points != metrics*points {
			b.Fatal(err, w.points, w.reasons)
		}
		out.Take()
		out.End()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/metrics/points, "ns/sample")
}

// BenchmarkAllKinds is what goes through the translation each time.
func BenchmarkAllKinds(b *testing.B) {
	h, r := open(b, nil)
	raw := body(b, request(allKinds))
	b.ReportAllocs()
	for b.Loop() {
		out, _ := r.in.Begin(h.ID, protocol, "", "bench")
		w := &walker{r: r, ctx: b.Context(), project: "shop", out: out}
		if err := w.request(raw); err != nil {
			b.Fatal(err)
		}
		if err := w.rest(); err != nil {
			b.Fatal(err)
		}
		out.Take()
		out.End()
	}
}
