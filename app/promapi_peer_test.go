//go:build peer

package app

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage/remote"
)

// TestBesidePrometheus sends the same samples to the Prometheus that KEMI_TEST_PROMETHEUS names and to our server, asks both the same questions, and compares
// status, media type and body. With KEMI_TEST_RECORD=1 it writes what Prometheus answered down for TestLikePrometheus.
func TestBesidePrometheus(t *testing.T) {
	program := os.Getenv("KEMI_TEST_PROMETHEUS")
	if program == "" {
		t.Fatal("KEMI_TEST_PROMETHEUS: is not set: name the program of a Prometheus 3.16")
	}
	theirs := promClient{base: startPrometheus(t, program)}
	a := start(t, config(t))
	ours := promClient{base: "http://" + a.Addr(), token: a.AdminToken}
	rec := promRecord{Writes: promWrites(t)}
	for _, w := range rec.Writes {
		theirs.write(t, w)
		ours.write(t, w)
	}
	ours.settled(t)
	var build struct {
		Data struct{ Version string }
	}
	if err := json.Unmarshal(theirs.ask(t, promQuestion{Method: "GET", Path: "/status/buildinfo"}).Body, &build); err != nil {
		t.Fatal(err)
	}
	rec.Version = "Prometheus " + build.Data.Version
	equal := 0
	for _, q := range promQuestions() {
		want := theirs.ask(t, q)
		if why := differs(want, ours.ask(t, q)); why != "" {
			t.Errorf("%s: %s", q, why)
			continue
		}
		equal++
		if len(want.Body) < 4000 {
			rec.Asked = append(rec.Asked, want)
		}
	}
	t.Logf("%s: %d of %d answers equal", rec.Version, equal, len(promQuestions()))
	for name, types := range map[string][]prompb.ReadRequest_ResponseType{"samples": nil, "chunks": {prompb.ReadRequest_STREAMED_XOR_CHUNKS, prompb.ReadRequest_SAMPLES}} {
		want, got := theirs.read(t, types), ours.read(t, types)
		if len(want) < 10_000 || want != got {
			t.Errorf("remote read, %s: %s", name, firstDifference(want, got))
		}
	}
	if os.Getenv("KEMI_TEST_RECORD") == "1" && !t.Failed() {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err := json.NewEncoder(z).Encode(rec); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(promRecordFile, b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// read asks by remote read and gives the answer as text.
func (c promClient) read(t *testing.T, types []prompb.ReadRequest_ResponseType) string {
	t.Helper()
	query := func(from, to int64, ms ...*prompb.LabelMatcher) *prompb.Query {
		return &prompb.Query{StartTimestampMs: promStart + from, EndTimestampMs: promStart + to, Matchers: ms}
	}
	req := prompb.ReadRequest{AcceptedResponseTypes: types, Queries: []*prompb.Query{
		query(0, 7_200_000, &prompb.LabelMatcher{Name: "__name__", Value: "cpu_usage"}),
		query(600_000, 900_001, &prompb.LabelMatcher{Type: prompb.LabelMatcher_RE, Name: "__name__", Value: "up|ended|odd_values|request_seconds"}, &prompb.LabelMatcher{Type: prompb.LabelMatcher_NEQ, Name: "host", Value: "web1"}),
		query(0, 1, &prompb.LabelMatcher{Name: "__name__", Value: "nothing"}),
	}}
	b, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+"/api/v1/read", bytes.NewReader(snappy.Encode(nil, b)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Encoding", "snappy")
	r.Header.Set("Content-Type", "application/x-protobuf")
	resp := c.do(t, r)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("remote read: %s %v: %.300s", resp.Status, err, body)
	}
	out := []string{resp.Header.Get("Content-Type")}
	if len(types) == 0 {
		var res prompb.ReadResponse
		if body, err = snappy.Decode(nil, body); err == nil {
			err = res.Unmarshal(body)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, q := range res.Results {
			for _, ts := range q.Timeseries {
				out = append(out, fmt.Sprintf("%d %s", i, ts.String()))
			}
		}
	} else {
		for frames := remote.NewChunkedReader(bytes.NewReader(body), 64<<20, nil); ; {
			var res prompb.ChunkedReadResponse
			err := frames.NextProto(&res)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range res.ChunkedSeries {
				text := fmt.Sprintf("%d %v", res.QueryIndex, s.Labels)
				for _, k := range s.Chunks {
					text += fmt.Sprintf(" %d-%d %s %x", k.MinTimeMs, k.MaxTimeMs, k.Type, k.Data)
				}
				out = append(out, text)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func startPrometheus(t *testing.T, program string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := dir + "/prometheus.yml"
	if err := os.WriteFile(conf, []byte("global: {evaluation_interval: 1m}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file="+conf, "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+addr, "--web.enable-remote-write-receiver",
		"--enable-feature=exemplar-storage,promql-per-step-stats", "--storage.tsdb.retention.time=10y", "--log.level=error")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus: %s", out.String())
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/-/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return "http://" + addr
			}
		}
		if time.Now().After(end) {
			t.Fatalf("Prometheus is not ready: %v\n%s", err, out.String())
		}
	}
}

// promStart is when the samples begin; there are two hours of them.
const promStart = 1767225600_000

// promWrites is gauges, counters with resets and gaps, classic and native histograms, exemplars, odd values and names, in bodies of remote write 1.0.
func promWrites(t *testing.T) (bodies [][]byte) {
	const step, n = 15_000, 480
	var series []prompb.TimeSeries
	add := func(next func(i int) (float64, bool), pairs ...string) *prompb.TimeSeries {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(labels.FromStrings(pairs...), nil)}
		for i := range n {
			if v, ok := next(i); ok {
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: promStart + int64(i)*step, Value: v})
			}
		}
		series = append(series, ts)
		return &series[len(series)-1]
	}
	for h := range 6 {
		host, dc := fmt.Sprint("web", h), []string{"icn", "pus"}[h%2]
		for c := range 2 {
			add(func(i int) (float64, bool) {
				return math.Round(50+40*math.Sin(float64(i)/20+float64(h))+float64(c)) / 4, i%97 != h
			}, "__name__", "cpu_usage", "host", host, "dc", dc, "cpu", fmt.Sprint(c))
		}
		for k, code := range []string{"200", "404", "500"} {
			s := add(func(i int) (float64, bool) { return float64((i % (200 + 50*h)) * (5 - k*2 + h)), true }, "__name__", "http_requests_total", "host", host, "dc", dc, "code", code, "path", "/결제\"\\\n")
			s.Exemplars = append(s.Exemplars, prompb.Exemplar{Labels: []prompb.Label{{Name: "trace_id", Value: fmt.Sprint("t", h, k)}}, Value: 0.25 + float64(h), Timestamp: promStart + 60_000},
				prompb.Exemplar{Labels: []prompb.Label{{Name: "trace_id", Value: fmt.Sprint("u", h, k)}}, Value: 1e-9, Timestamp: promStart + 3600_000})
		}
		for k, le := range []string{"0.1", "0.5", "1", "+Inf"} {
			add(func(i int) (float64, bool) { return float64(i * (k + 1)), true }, "__name__", "latency_seconds_bucket", "host", host, "dc", dc, "le", le)
		}
		add(func(int) (float64, bool) { return 1, true }, "__name__", "up", "host", host, "job", "node")
	}
	odd := []float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), math.Inf(-1), 1e-7, 1e21, 1e22, 0.1, -0.3, math.MaxFloat64, math.SmallestNonzeroFloat64}
	add(func(i int) (float64, bool) { return odd[i%len(odd)], true }, "__name__", "odd_values", "host", "web0")
	add(func(i int) (float64, bool) {
		if i == 240 {
			return math.Float64frombits(value.StaleNaN), true
		}
		return 7, i < 240
	}, "__name__", "ended", "host", "web0")
	add(func(i int) (float64, bool) { return float64(i), true }, "__name__", "data.load.avg_5m", "호스트", "dkos", "service.name", "a\u2028b<>&")
	native := prompb.TimeSeries{Labels: prompb.FromLabels(labels.FromStrings("__name__", "request_seconds", "host", "web0"), nil)}
	for i := range n {
		h := &histogram.Histogram{
			Schema: 1, ZeroThreshold: 1e-6, ZeroCount: uint64(i), Count: uint64(7*i + 3), Sum: float64(i) * 1.5, PositiveSpans: []histogram.Span{{Offset: -1, Length: 2}, {Offset: 1, Length: 1}},
			PositiveBuckets: []int64{int64(i + 1), int64(i), -int64(i)}, NegativeSpans: []histogram.Span{{Offset: 0, Length: 1}}, NegativeBuckets: []int64{int64(2*i + 1)},
		}
		h.Count = h.ZeroCount + uint64(i+1) + uint64(2*i+1) + uint64(i+1) + uint64(2*i+1)
		native.Histograms = append(native.Histograms, prompb.FromIntHistogram(promStart+int64(i)*step, h))
	}
	series = append(series, native)
	// In the order of labels, in which our sums go: Prometheus' go in the order in which it has met the series.
	slices.SortFunc(series, func(a, b prompb.TimeSeries) int {
		var x, y labels.ScratchBuilder
		return labels.Compare(a.ToLabels(&x, nil), b.ToLabels(&y, nil))
	})
	// By time, as they would come: Prometheus takes nothing that is much older than the newest.
	const slice = n / 8 * step
	for from := int64(promStart); from < promStart+n*step; from += slice {
		var req prompb.WriteRequest
		in := func(at int64) bool { return at >= from && at < from+slice }
		for _, s := range series {
			part := prompb.TimeSeries{Labels: s.Labels}
			for _, x := range s.Samples {
				if in(x.Timestamp) {
					part.Samples = append(part.Samples, x)
				}
			}
			for _, x := range s.Histograms {
				if in(x.Timestamp) {
					part.Histograms = append(part.Histograms, x)
				}
			}
			for _, x := range s.Exemplars {
				if in(x.Timestamp) {
					part.Exemplars = append(part.Exemplars, x)
				}
			}
			if len(part.Samples)+len(part.Histograms) > 0 {
				req.Timeseries = append(req.Timeseries, part)
			}
		}
		b, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, snappy.Encode(nil, b))
	}
	return bodies
}

// Asked not are the few things in which we mean to differ: a time of NaN is refused, of label values a limit leaves the least and not any, and /metadata tells what
// senders said, where Prometheus knows only what it scraped.

// promExprs are asked at one time and over a range.
var promExprs = strings.Split(strings.TrimSpace(`
up
cpu_usage
cpu_usage{host="web1"}
{host=~"web[01]"}
{__name__=~"cpu.*|up"}
{"data.load.avg_5m"}
{"data.load.avg_5m", "호스트"="dkos"}
odd_values
ended
ended offset 10m
request_seconds
http_requests_total{code!="200"}
sum(cpu_usage)
sum by (host) (cpu_usage)
sum without (host, cpu) (cpu_usage)
avg by (dc) (cpu_usage)
min(cpu_usage)
max by (dc) (cpu_usage)
count by (code) (http_requests_total)
count({__name__=~".+"})
count by (__name__) ({__name__!=""})
group by (dc) (cpu_usage)
stddev by (dc) (cpu_usage)
stdvar(cpu_usage)
quantile by (dc) (0.95, cpu_usage)
quantile(2, cpu_usage)
quantile(-1, cpu_usage)
topk(3, cpu_usage)
bottomk(2, sum by (host) (cpu_usage))
count_values("v", up)
rate(http_requests_total[5m])
sum by (code) (rate(http_requests_total[5m]))
sum by (dc) (increase(http_requests_total[1h]))
irate(http_requests_total{host="web0"}[2m])
delta(cpu_usage{cpu="0"}[10m])
idelta(cpu_usage{cpu="0"}[10m])
deriv(cpu_usage{host="web0"}[10m])
rate(cpu_usage[5m])
changes(cpu_usage{host="web0"}[10m])
resets(http_requests_total{host="web0"}[1h])
avg_over_time(cpu_usage{host="web0"}[15m])
max by (dc) (max_over_time(cpu_usage[15m]))
min_over_time(cpu_usage{cpu="1"}[15m])
sum_over_time(cpu_usage{cpu="1"}[5m])
count_over_time(up[5m])
last_over_time(ended[1h])
present_over_time(ended[30m])
absent_over_time(nothing{a="b"}[5m])
quantile_over_time(0.9, cpu_usage{host="web0"}[30m])
stddev_over_time(cpu_usage{host="web0"}[30m])
predict_linear(cpu_usage{host="web0"}[30m], 3600)
max_over_time(sum by (dc) (rate(http_requests_total[5m]))[30m:1m])
histogram_quantile(0.9, sum by (le) (rate(latency_seconds_bucket[5m])))
histogram_quantile(0.5, rate(latency_seconds_bucket{host="web0"}[5m]))
histogram_quantile(0.5, rate(request_seconds[5m]))
histogram_count(request_seconds)
histogram_sum(rate(request_seconds[5m]))
histogram_avg(request_seconds)
histogram_fraction(0, 0.2, request_seconds)
rate(request_seconds[5m])
sum(request_seconds)
sum(rate({__name__=~"request_seconds|http_requests_total"}[5m]))
absent(up)
absent(nothing{host="x"})
sum(up) / count(up)
sum by (host) (rate(http_requests_total{code="500"}[5m])) / sum by (host) (rate(http_requests_total[5m])) > 0.1
cpu_usage > 20
cpu_usage > bool 20
cpu_usage{cpu="0"} * on (host) group_left (job) up
cpu_usage{cpu="0"} + ignoring (cpu) cpu_usage{cpu="1"}
up and on (host) cpu_usage > 5
up unless on (host) cpu_usage{host="web0"}
up or vector(3)
-cpu_usage{host="web0"}
cpu_usage{host="web0"} % 3
2 ^ up
1 + 2 * 3
"text"
time()
vector(1)
scalar(sum(up))
pi()
minute(vector(1767225660))
day_of_week()
label_replace(up, "h", "$1-x", "host", "web(.*)")
label_join(up, "j", "-", "host", "job")
sort(sum by (host) (cpu_usage))
sort_desc(sum by (host) (cpu_usage))
sort_by_label(up, "host")
clamp(cpu_usage{host="web0"}, 5, 10)
round(cpu_usage{host="web0"}, 0.5)
abs(odd_values)
ceil(odd_values)
exp(odd_values)
ln(odd_values)
sqrt(odd_values)
sgn(odd_values)
sum(odd_values)
avg(odd_values)
max(odd_values)
timestamp(up)
timestamp(sum(up))
cpu_usage{host="web0"} @ 1767226000
cpu_usage{host="web0"} @ end()
sum(cpu_usage) offset 5m
sum(cpu_usage offset -5m)
cpu_usage{host="web0"}[2m]
cpu_usage{host="web0"}[5m:1m]
up{host="nothing"}
info(up)
limitk(2, up)
holt_winters(up[5m], 0.5, 0.5)
double_exponential_smoothing(up[5m], 0.5, 0.5)
mad_over_time(up[5m])
up{job=~"("}
up{
sum(
sum by (host) cpu_usage
rate(up)
rate(up[5m:])
up[5m
nosuch(up)
{}
{job=~".*"}
up @ foo
up offset
1 and up
"a" + 1
cpu_usage + up
cpu_usage{host="web0"} + cpu_usage
up == 1 bool
histogram_quantile(up, 0.9)
sum(up) by (le) without (host)
up{__name__="other"}
rate(up[0s])
up[5m] offset 1h + 2
topk(1e100, up)
label_replace(up, "", "$1", "host", "(.*)")
label_replace(up, "h", "$1", "host", "(")
`), "\n")

func promQuestions() (out []promQuestion) {
	ask := func(method, path string, pairs ...string) {
		v := url.Values{}
		for i := 0; i+1 < len(pairs); i += 2 {
			v.Add(pairs[i], pairs[i+1])
		}
		out = append(out, promQuestion{Method: method, Path: path, Form: v.Encode()})
	}
	const start, mid, end = "1767225600", "1767229200.5", "1767232785"
	for i, e := range promExprs {
		ask("GET", "/query", "query", e, "time", mid)
		ask("POST", "/query", "query", e, "time", []string{"2026-01-01T01:30:00Z", "2026-01-01T01:59:45.123+09:00", end}[i%3])
		ask("GET", "/query_range", "query", e, "start", start, "end", end, "step", []string{"600", "10m", "1234.567"}[i%3])
		ask("POST", "/query_range", "query", e, "start", "2026-01-01T00:50:00.5Z", "end", mid, "step", "1m")
		ask("GET", "/format_query", "query", e)
		ask("POST", "/parse_query", "query", e)
		if i%4 == 0 {
			ask("GET", "/query", "query", e, "time", mid, "stats", "all")
			ask("GET", "/query_range", "query", e, "start", start, "end", mid, "step", "1800", "stats", "true")
			ask("GET", "/query", "query", e, "time", mid, "limit", "2")
			ask("GET", "/query_range", "query", e, "start", start, "end", mid, "step", "1800", "limit", "1")
			ask("GET", "/query", "query", e, "time", "1767225600", "lookback_delta", "1h", "timeout", "10s")
		}
		if i%8 == 0 {
			ask("GET", "/query_exemplars", "query", e, "start", start, "end", end)
		}
	}
	// Parameters.
	for _, bad := range [][]string{
		{"time", "x"}, {"time", "2026-13-01T00:00:00Z"}, {"timeout", "x"}, {"timeout", "-1"}, {"timeout", "0"}, {"timeout", "1y"}, {"limit", "-1"}, {"limit", "x"}, {"limit", "1.5"}, {"limit", "0"},
		{"lookback_delta", "x"}, {"lookback_delta", "-5"}, {"lookback_delta", "1e400"}, {"stats", "x"}, {"stats", "none"}, {"unknown", "1"},
	} {
		form := append([]string{"query", "up"}, bad...)
		if bad[0] != "time" {
			form = append(form, "time", mid)
		}
		ask("GET", "/query", form...)
		ask("POST", "/query", form...)
		ask("GET", "/query_range", append([]string{"query", "up", "start", start, "end", mid, "step", "600"}, bad...)...)
	}
	ask("GET", "/query", "time", mid)
	ask("GET", "/query", "query", "", "time", mid)
	for _, p := range [][]string{
		{"start", start, "end", end}, {"start", start, "end", end, "step", "0"}, {"start", start, "end", end, "step", "-1"}, {"start", start, "end", end, "step", "x"}, {"start", start, "step", "1"}, {"end", end, "step", "1"},
		{"start", end, "end", start, "step", "1"}, {"start", start, "end", "1867225600", "step", "1"}, {"start", "x", "end", end, "step", "1"}, {"start", start, "end", "y", "step", "1"}, {"start", start, "end", end, "step", "1e30"},
		{"start", start, "end", start, "step", "1"}, {"start", start, "end", "1767225610.999", "step", "0.5"}, {"start", start, "end", "1767236600", "step", "1"}, {"start", start, "end", "1767236601", "step", "1"},
		{"start", "-9223372036854775", "end", start, "step", "1y"}, {"start", start, "end", end, "step", "1h", "step", "2h"},
	} {
		ask("GET", "/query_range", append([]string{"query", "up"}, p...)...)
	}
	// Series and labels.
	selectors := [][]string{
		nil, {"up"}, {"cpu_usage", "up"}, {`{host="web1"}`}, {`{host=~"web[12]"}`, `up{host="web1"}`}, {`nothing`}, {`{"data.load.avg_5m"}`}, {`request_seconds`}, {`{host=~".*"}`}, {`{}`}, {`up[5m]`}, {`sum(up)`}, {`up{`},
		{`{job!=""}`}, {`{code=~"4..|5..", host!="web0"}`},
	}
	for i, sel := range selectors {
		var form []string
		for _, s := range sel {
			form = append(form, "match[]", s)
		}
		for _, extra := range [][]string{nil, {"start", start, "end", mid}, {"limit", "0"}} {
			f := append(append([]string{}, form...), extra...)
			method := []string{"GET", "POST"}[i%2]
			ask(method, "/series", f...)
			ask(method, "/labels", f...)
			for _, name := range []string{"host", "__name__", "le", "nothing", "U__service_2e_name", "U___ed_98_b8_ec_8a_a4_ed_8a_b8", "%ED%98%B8%EC%8A%A4%ED%8A%B8", "service.name"} {
				ask("GET", "/label/"+name+"/values", f...)
			}
		}
	}
	for _, p := range [][]string{{"start", "x"}, {"end", "x"}, {"limit", "x"}, {"limit", "-1"}, {"start", end, "end", start}, {"start", "1500000000", "end", "1500000001"}} {
		ask("GET", "/series", append([]string{"match[]", "up"}, p...)...)
		ask("POST", "/labels", p...)
		ask("GET", "/label/host/values", p...)
		ask("GET", "/query_exemplars", append([]string{"query", "http_requests_total"}, p...)...)
	}
	ask("GET", "/label/%ff/values")
	ask("GET", "/query_exemplars", "query", "http_requests_total", "start", start, "end", end)
	ask("POST", "/query_exemplars", "query", `rate(http_requests_total{host="web1"}[5m]) > 3`, "start", start, "end", mid)
	ask("GET", "/query_exemplars", "query", "up")
	ask("GET", "/query_exemplars", "query", "1")
	ask("GET", "/query_exemplars", "query", "(")
	ask("GET", "/query_exemplars")
	for _, p := range [][]string{{"limit", "x"}, {"limit_per_metric", "x"}} {
		ask("GET", "/metadata", p...)
	}
	ask("GET", "/metadata")
	ask("GET", "/alertmanagers")
	ask("GET", "/alerts")
	ask("GET", "/rules")
	for _, p := range [][]string{
		{"type", "alert"}, {"type", "x"}, {"exclude_alerts", "x"}, {"exclude_alerts", "true"}, {"group_limit", "x"}, {"group_limit", "0"}, {"group_limit", "2"}, {"group_next_token", "x"}, {"group_limit", "1", "group_next_token", "x"},
		{"match[]", "{"}, {"match[]", "{}"}, {"match[]", "up"},
	} {
		ask("GET", "/rules", p...)
	}
	ask("GET", "/notifications")
	for _, p := range [][]string{{"limit", "0"}, {"limit", "x"}, {"limit", "10001"}, {"limit", "40"}} {
		ask("GET", "/status/tsdb", p...)
	}
	ask("GET", "/status/self_metrics", "metric_name_pattern", "(")
	ask("GET", "/status/self_metrics", "metric_name_pattern", "nothing")
	ask("GET", "/status/tsdb/blocks")
	return out
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			for k := range min(len(w[i]), len(g[i])) {
				if w[i][k] != g[i][k] {
					return fmt.Sprintf("line %d:\n  Prometheus …%.200s\n  KEMI       …%.200s", i, w[i][max(0, k-60):], g[i][max(0, k-60):])
				}
			}
		}
	}
	return fmt.Sprintf("%d lines, Prometheus has %d", len(g), len(w))
}
