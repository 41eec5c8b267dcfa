package push

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	config_util "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/agent"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// A Prometheus in agent mode sends what it has in its own WAL, in both versions: all of it arrives, and it sees no failure.
func TestRemoteWriteFromPrometheus(t *testing.T) {
	for _, msg := range []remoteapi.WriteMessageType{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType} {
		t.Run(string(msg), func(t *testing.T) {
			h := openHouse(t, nil)
			u, err := url.Parse(h.url + "/api/v1/write")
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			rs := remote.NewStorage(promslog.NewNopLogger(), nil, func() (int64, error) { return 0, nil }, dir, 5*time.Second, nil, false)
			rw := config.DefaultRemoteWriteConfig
			rw.Name, rw.URL, rw.ProtobufMessage, rw.SendExemplars, rw.SendNativeHistograms = "kemi", &config_util.URL{URL: u}, msg, true, true
			rw.QueueConfig.BatchSendDeadline = model.Duration(50 * time.Millisecond)
			rw.QueueConfig.MaxSamplesPerSend = 300
			rw.MetadataConfig.Send = false
			if err := rs.ApplyConfig(&config.Config{GlobalConfig: config.DefaultGlobalConfig, RemoteWriteConfigs: []*config.RemoteWriteConfig{&rw}}); err != nil {
				t.Fatal(err)
			}
			db, err := agent.Open(promslog.NewNopLogger(), nil, rs, dir, agent.DefaultOptions())
			if err != nil {
				t.Fatal(err)
			}
			db.SetWriteNotified(rs)
			want := map[string][]string{}
			rnd := rand.New(rand.NewPCG(1, 2))
			// The sender leaves out what is older than its start, whenever that is.
			began := time.Now().Add(time.Hour).UnixMilli()
			wantHistograms, wantExemplars := 0, 0
			for round := range 5 {
				app := db.AppenderV2(t.Context())
				at := began + int64(round)*1000
				for i := range 200 {
					ls := labels.FromStrings("__name__", fmt.Sprintf("data.load.avg_%d", i%7), "host", fmt.Sprintf("web%03d", i), "서비스", "결제")
					v := []float64{0, rnd.NormFloat64(), math.Inf(1), math.Copysign(0, -1), 1e300}[rnd.IntN(5)]
					if _, err := app.Append(0, ls, 0, at, v, nil, nil, storage.AOptions{}); err != nil {
						t.Fatal(err)
					}
					key := kemi.LabelsFromMap(ls.Map()).String()
					if v == 0 {
						v = 0 // -0 does not survive the encoder of Prometheus
					}
					want[key] = append(want[key], fmt.Sprint(at, " ", v))
				}
				ls := labels.FromStrings("__name__", "latency", "host", "web000")
				opts := storage.AOptions{Exemplars: []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", "abc"), Value: 1, Ts: at, HasTs: true}}}
				var hi *histogram.Histogram
				var fh *histogram.FloatHistogram
				if round%2 == 0 {
					hi = tsdbutil.GenerateTestHistogram(int64(round))
				} else {
					fh = tsdbutil.GenerateTestFloatHistogram(int64(round))
				}
				if _, err := app.Append(0, ls, 0, at, 0, hi, fh, opts); err != nil {
					t.Fatal(err)
				}
				wantHistograms++
				wantExemplars++
				if err := app.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			deadline := time.Now().Add(30 * time.Second)
			var got map[string][]string
			var hs []codec.Histogram
			exemplars := 0
			for {
				got, hs, exemplars = map[string][]string{}, nil, 0
				for name, ps := range h.stored() {
					for _, p := range ps {
						for i := range p.At {
							v := p.Values[i]
							if v == 0 {
								v = 0
							}
							got[name] = append(got[name], fmt.Sprint(int64(p.At[i]), " ", v))
						}
					}
					slices.Sort(got[name])
				}
				for _, b := range h.batches() {
					if b.Complex != nil {
						hs = append(hs, b.Complex.Histograms...)
						exemplars += len(b.Complex.Exemplars)
					}
				}
				n := 0
				for _, ss := range got {
					n += len(ss)
				}
				if n >= 1000 && len(hs) >= wantHistograms && exemplars >= wantExemplars || time.Now().After(deadline) {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			if err := errors.Join(db.Close(), rs.Close()); err != nil {
				t.Error(err)
			}
			if len(got) != len(want) {
				t.Fatalf("%d series, want %d", len(got), len(want))
			}
			for name, w := range want {
				slices.Sort(w)
				if !slices.Equal(sansSign(got[name]), sansSign(w)) {
					t.Fatalf("%s:\n got %v\nwant %v", name, got[name], w)
				}
			}
			if len(hs) != wantHistograms || exemplars != wantExemplars {
				t.Fatalf("%d histograms and %d exemplars, want %d and %d", len(hs), exemplars, wantHistograms, wantExemplars)
			}
			slices.SortFunc(hs, func(a, b codec.Histogram) int { return int(a.At - b.At) })
			for i, hg := range hs {
				if hg.Float != (i%2 == 1) {
					t.Fatalf("histogram %d: float %t", i, hg.Float)
				}
				if !hg.Float {
					w := tsdbutil.GenerateTestHistogram(int64(i))
					if hg.Count != w.Count || hg.Sum != w.Sum || !slices.Equal(hg.PositiveDeltas, w.PositiveBuckets) || hg.Schema != w.Schema {
						t.Fatalf("histogram %d: %+v, want %v", i, hg, w)
					}
				}
			}
		})
	}
}

func sansSign(ss []string) []string {
	out := make([]string, len(ss))
	for i, s := range ss {
		out[i] = strings.Replace(s, " -0", " 0", 1)
		if strings.HasPrefix(s[strings.IndexByte(s, ' '):], " -0.") {
			out[i] = s
		}
	}
	return out
}

// The client library of Prometheus believes what the answer to version 2.0 says was written.
func TestRemoteWriteConfirms(t *testing.T) {
	h := openHouse(t, nil)
	st := writev2.NewSymbolTable()
	req := &writev2.Request{Timeseries: []writev2.TimeSeries{{
		LabelsRefs: st.SymbolizeLabels(labels.FromStrings("__name__", "m", "a", "b"), nil),
		Samples:    []writev2.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}, {Value: 2, Timestamp: time.Now().UnixMilli() + 1}},
		Exemplars:  []writev2.Exemplar{{LabelsRefs: st.SymbolizeLabels(labels.FromStrings("trace_id", "x"), nil), Value: 1, Timestamp: time.Now().UnixMilli()}},
	}}}
	req.Symbols = st.Symbols()
	api, err := remoteapi.NewAPI(h.url, remoteapi.WithAPIPath("api/v1/write"))
	if err != nil {
		t.Fatal(err)
	}
	stats, err := api.Write(t.Context(), remoteapi.WriteV2MessageType, req)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Samples != 2 || stats.Exemplars != 1 || stats.Histograms != 0 {
		t.Fatalf("%+v", stats)
	}
}

func TestRemoteWriteRefuses(t *testing.T) {
	now := time.Now()
	good := packed(true, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m") })
	good2 := packed(false, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m") })
	bomb := binary.AppendUvarint(nil, 3<<30)
	v2 := []string{"Content-Type", codec.RemoteWrite2}
	for name, c := range map[string]struct {
		body    []byte
		headers []string
		status  int
		says    []string
	}{
		"no snappy":         {[]byte("hello, this is no snappy"), nil, 400, []string{"broken snappy"}},
		"empty":             {nil, nil, 400, []string{"broken snappy: 0 bytes"}},
		"half a snappy":     {good[:len(good)/2], nil, 400, []string{"broken snappy"}},
		"half a protobuf":   {snappyOf([]byte{1<<3 | 2, 200, 1, 5}), nil, 400, []string{"broken protobuf", "at byte 0"}},
		"text":              {snappyOf([]byte("up{job=\"x\"} 1\n")), nil, 400, []string{"broken protobuf"}},
		"version 2 as 1":    {good2, nil, 400, []string{"not a message of application/x-protobuf:"}},
		"version 1 as 2":    {good, v2, 400, []string{"not a message of application/x-protobuf;proto=io.prometheus.write.v2.Request"}},
		"says 3 GiB":        {append(bomb, 0, 0, 0), nil, 413, []string{"unpacks to 3221225472 bytes, at most 67108864"}},
		"says 60 MiB":       {append(binary.AppendUvarint(nil, 60<<20), 0, 0, 0), nil, 400, []string{"cannot unpack"}},
		"other type":        {good, []string{"Content-Type", "application/json"}, 415, []string{`"application/json"`, codec.RemoteWrite2}},
		"unknown version":   {good, []string{"Content-Type", "application/x-protobuf;proto=io.prometheus.write.v3.Request"}, 415, []string{"v3"}},
		"gzip":              {good, []string{"Content-Encoding", "gzip"}, 415, []string{"gzip", "must be snappy"}},
		"too large":         {bytes.Repeat([]byte{7}, 33<<20), nil, 413, []string{"34603008 bytes, at most 33554432"}},
		"long batch name":   {good, []string{"Idempotency-Key", strings.Repeat("x", 300)}, 400, []string{"Idempotency-Key", "300 bytes", "256"}},
		"no labels":         {packed(true, func(e *codec.Encoder) { one(e, now, 1) }), nil, 400, []string{"1 samples, 1 series refused", "without labels"}},
		"no name":           {packed(true, func(e *codec.Encoder) { one(e, now, 1, "a", "b") }), nil, 400, []string{`{a="b"}`, "__name__"}},
		"empty label name":  {packed(true, func(e *codec.Encoder) { one(e, now, 1, "", "b", "__name__", "m") }), nil, 400, []string{"empty name"}},
		"label twice":       {packed(true, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m", "a", "b", "a", "c") }), nil, 400, []string{`label "a" stands there twice, with "b" and "c"`}},
		"invalid UTF-8":     {packed(true, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m", "a", "\xff") }), nil, 400, []string{`label "a"`, "not valid UTF-8"}},
		"invalid UTF-8 key": {packed(true, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m", "a\xc3", "x") }), nil, 400, []string{"the name is not valid UTF-8"}},
		"10 MB value": {packed(true, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m", "a", strings.Repeat("x", 10<<20)) }), nil, 400,
			[]string{`label "a": value of 10485760 bytes: at most 16384`}},
		"10 MB value in 2": {packed(false, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m", "a", strings.Repeat("x", 10<<20)) }), v2, 400,
			[]string{`label "a": value of 10485760 bytes: at most 16384`}},
		"long name":    {packed(true, func(e *codec.Encoder) { one(e, now, 1, "__name__", "m", strings.Repeat("n", 2000), "x") }), nil, 400, []string{"name of 2000 bytes: at most 1024"}},
		"many labels":  {packed(true, manyLabels(now, 65)), nil, 400, []string{"65 labels: at most 64"}},
		"many in 2":    {packed(false, manyLabels(now, 3000)), v2, 400, []string{"labels"}},
		"1970":         {packed(true, func(e *codec.Encoder) { one(e, time.UnixMilli(1234), 7.5, "__name__", "m", "a", "b") }), nil, 400, []string{`{__name__="m", a="b"}`, "sample 7.5 at 1970-01-01T00:00:01.234Z (1234 ms)", "must be between 20"}},
		"year 9999":    {packed(false, func(e *codec.Encoder) { one(e, time.UnixMilli(math.MaxInt64), 7.5, "__name__", "m") }), v2, 400, []string{"9223372036854775807 ms"}},
		"next week":    {packed(true, func(e *codec.Encoder) { one(e, now.Add(7*24*time.Hour), 1, "__name__", "m") }), nil, 400, []string{"must be between"}},
		"bad ref in 2": {snappyOf(mustMarshal(t, &writev2.Request{Symbols: []string{""}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Value: 1}}}}})), v2, 400, []string{"label reference 1: there are 1 symbols"}},
		"odd ref in 2": {snappyOf(mustMarshal(t, &writev2.Request{Symbols: []string{"", "a"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1}, Samples: []writev2.Sample{{Value: 1}}}}})), v2, 400, []string{"pairs"}},
		"no sample in 2": {snappyOf(mustMarshal(t, &writev2.Request{Symbols: []string{"", "__name__", "m"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2}}}})), v2, 400,
			[]string{"neither a sample nor a histogram"}},
		"bad histogram": {snappyOf(mustMarshal(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: "m"}},
			Histograms: []prompb.Histogram{{Count: &prompb.Histogram_CountInt{CountInt: 3}, Timestamp: now.UnixMilli()}}}}})), nil, 400, []string{"count 3: the buckets hold 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, nil)
			status, text, header := h.post("/api/v1/write", c.body, c.headers...)
			if status != c.status {
				t.Fatalf("%d %s, want %d", status, text, c.status)
			}
			wants(t, text, c.says...)
			if len(text) > 4000 {
				t.Errorf("the error has %d bytes", len(text))
			}
			if len(c.headers) > 1 && c.headers[1] == codec.RemoteWrite2 && header.Get("X-Prometheus-Remote-Write-Samples-Written") != "0" {
				t.Errorf("headers %v", header)
			}
			h.expectNothing()
		})
	}
}

func manyLabels(at time.Time, n int) func(e *codec.Encoder) {
	return func(e *codec.Encoder) {
		ls := []string{"__name__", "m"}
		for i := range n - 1 {
			ls = append(ls, fmt.Sprintf("l%04d", i), "v")
		}
		one(e, at, 1, ls...)
	}
}

func mustMarshal(t *testing.T, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is good of a request is kept, and the log's copy of it is a body that Prometheus reads.
func TestRemoteWriteKeepsTheRest(t *testing.T) {
	now := time.Now()
	for _, v1 := range []bool{true, false} {
		h := openHouse(t, nil)
		body := packed(v1, func(e *codec.Encoder) {
			one(e, now, 1, "__name__", "a", "x", "y")
			one(e, now, 2, "bad", "no name")
			e.Add(kemi.LabelsOf("__name__", "b"), []kemi.Millis{5, kemi.MillisOf(now), 6, kemi.MillisOf(now) + 1}, []float64{math.NaN(), 3, math.Inf(1), math.Inf(-1)})
			e.Add(kemi.LabelsOf("__name__", "c"), []kemi.Millis{1, 2}, []float64{1, 2})
			one(e, now, 4, "__name__", "d", "huge", strings.Repeat("z", 10<<20))
			one(e, now, 5, "__name__", "e")
		})
		contentType := codec.RemoteWrite2
		if v1 {
			contentType = codec.RemoteWrite1
		}
		status, text, header := h.post("/api/v1/write", body, "Content-Type", contentType, "Content-Encoding", "snappy")
		if status != 400 {
			t.Fatalf("%d %s", status, text)
		}
		wants(t, text, "6 samples, 2 series refused; 4 samples, 0 histograms, 0 exemplars stored", `{bad="no name"}`, "sample NaN at 1970")
		if got := header.Get("X-Prometheus-Remote-Write-Samples-Written"); !v1 && got != "4" {
			t.Errorf("%q samples written", got)
		}
		recs := h.records()
		if len(recs) != 1 || len(recs[0].Value) > 4096 {
			t.Fatalf("%d records, the first of %d bytes", len(recs), len(recs[0].Value))
		}
		if got, want := h.names(), []string{`{__name__="a", x="y"}`, `{__name__="b"}`, `{__name__="e"}`}; !slices.Equal(got, want) {
			t.Fatalf("stored %v, want %v", got, want)
		}
		b := h.stored()[`{__name__="b"}`][0]
		if !slices.Equal(b.Values, []float64{3, math.Inf(-1)}) {
			t.Fatalf("%+v", b)
		}
		samples := 0
		if v1 {
			w, err := remote.DecodeWriteRequest(bytes.NewReader(recs[0].Value))
			if err != nil {
				t.Fatal(err)
			}
			for _, ts := range w.Timeseries {
				samples += len(ts.Samples)
			}
		} else {
			w, err := remote.DecodeWriteV2Request(bytes.NewReader(recs[0].Value))
			if err != nil {
				t.Fatal(err)
			}
			for _, ts := range w.Timeseries {
				samples += len(ts.Samples)
			}
		}
		if samples != 4 {
			t.Fatalf("Prometheus reads %d samples of it", samples)
		}
	}
}

// A request that nothing is wrong with lies on the log as it came, and names its batch.
func TestRemoteWritePassesThrough(t *testing.T) {
	for _, name := range []string{"Idempotency-Key", "X-Kemi-Batch"} {
		h := openHouse(t, nil)
		body := packed(true, func(e *codec.Encoder) { one(e, time.Now(), math.NaN(), "__name__", "m") })
		status, text, _ := h.post("/api/v1/write", body, name, "agent-7/42")
		if status != http.StatusNoContent || text != "" {
			t.Fatalf("%d %s", status, text)
		}
		r := h.records()[0]
		if !bytes.Equal(r.Value, body) || r.Header(codec.HeaderBatch) != "agent-7/42" || r.Header(codec.HeaderProject) != "shop" || r.Header(codec.HeaderType) != codec.RemoteWrite1 {
			t.Fatalf("%+v", r)
		}
	}
}

func TestWriteMetricsDirectly(t *testing.T) {
	h := openHouse(t, nil)
	points := []kemi.Points{{Labels: kemi.LabelsOf("__name__", "rule:x"), At: []kemi.Millis{kemi.MillisOf(time.Now())}, Values: []float64{1}}}
	done, err := h.push.WritePoints(t.Context(), h.id, points)
	if err != nil || done.Samples != 1 || !done.Published || done.Offset != 0 {
		t.Fatalf("%+v %v", done, err)
	}
	body := packed(false, func(e *codec.Encoder) {
		one(e, time.Now(), 1, "__name__", "m")
		one(e, time.UnixMilli(0), 1, "__name__", "m")
	})
	done, err = h.push.WriteMetrics(t.Context(), h.id, codec.RemoteWrite2, "snappy", body, "b")
	if !errors.Is(err, kemi.ErrInvalid) || done.Samples != 1 || done.Refused.Samples != 1 || done.Offset != 1 {
		t.Fatalf("%+v %v", done, err)
	}
	if _, err = h.push.WriteMetrics(t.Context(), kemi.Identity{Subject: "x", Project: "shop", Permissions: kemi.MetricsRead}, "", "", body, ""); !errors.Is(err, kemi.ErrDenied) {
		t.Fatal(err)
	}
	if _, err = h.push.WriteMetrics(t.Context(), kemi.Identity{Subject: "x", Permissions: kemi.AllPermissions}, "", "", body, ""); !errors.Is(err, kemi.ErrDenied) {
		t.Fatal(err)
	}
}

// Nothing is acknowledged that the log did not take.
func TestRemoteWriteBusFails(t *testing.T) {
	f := &failingBus{}
	h := openHouse(t, func(o *Options) { f.Bus, o.Bus = o.Bus, f })
	f.err = kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "disk full"), 7*time.Second)
	body := packed(false, func(e *codec.Encoder) { one(e, time.Now(), 1, "__name__", "m") })
	status, text, header := h.post("/api/v1/write", body, "Content-Type", codec.RemoteWrite2)
	if status != 503 || header.Get("Retry-After") != "7" || header.Get("X-Prometheus-Remote-Write-Samples-Written") != "0" {
		t.Fatalf("%d %s %v", status, text, header)
	}
	wants(t, text, "disk full")
	if status, text, _ = h.post("/api/put", []byte(`{"metric":"m","timestamp":1777777777,"value":1,"tags":{"a":"b"}}`)); status != 503 {
		t.Fatalf("%d %s", status, text)
	}
}

// All requests together stay within the memory that is set for them: who comes too much is told to come back.
func TestMemoryIsBounded(t *testing.T) {
	h := openHouse(t, func(o *Options) {
		o.Config.MaxBodyBytes, o.Config.MaxDecodedBytes, o.Config.MemoryBytes, o.Config.QueueWait = 1<<20, 1<<20, 2<<20, 10*time.Millisecond
	})
	body := packed(true, func(e *codec.Encoder) {
		for i := range 1000 {
			one(e, time.Now(), 1, "__name__", "m", "i", fmt.Sprint(i))
		}
	})
	if err := h.push.memory.Acquire(context.Background(), 2<<20); err != nil {
		t.Fatal(err)
	}
	status, text, header := h.post("/api/v1/write", body)
	if status != 503 || header.Get("Retry-After") == "" {
		t.Fatalf("%d %s", status, text)
	}
	wants(t, text, "memory for requests under way")
	h.expectNothing()
	h.push.memory.Release(2<<20 - 1000 - int64(len(body))) // the body has room, but not what it unpacks to
	if status, text, _ = h.post("/api/v1/write", body); status != 204 {
		t.Fatalf("%d %s", status, text)
	}
	if !h.push.memory.TryAcquire(2<<20 - 1000 - int64(len(body))) {
		t.Fatal("a request did not give its memory back")
	}
	if status, text, _ = h.post("/api/v1/write", body); status != 503 {
		t.Fatalf("%d %s", status, text)
	}
	h.push.memory.Release(2 << 20)
	if !h.push.memory.TryAcquire(2 << 20) {
		t.Fatal("a refused request did not give its memory back")
	}
}

// Large labels leave nothing behind.
func TestHugeLabelsLeaveNothing(t *testing.T) {
	h := openHouse(t, nil)
	huge := packed(true, func(e *codec.Encoder) { one(e, time.Now(), 1, "__name__", "m", "a", strings.Repeat("x", 10<<20)) })
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	h.post("/api/v1/write", huge)
	before := heap()
	for range 20 {
		if status, text, _ := h.post("/api/v1/write", huge); status != 400 {
			t.Fatalf("%d %s", status, text)
		}
	}
	if after := heap(); after > before+8<<20 {
		t.Fatalf("%d bytes of heap before, %d after", before, after)
	}
	if n, size := h.push.table.Len(); n != 0 || size != 0 {
		t.Fatalf("the table knows %d series, %d bytes", n, size)
	}
}

type hostOwner struct{}

func (hostOwner) Epoch() uint64 { return 1 }
func (hostOwner) Enrich(project, host string) kemi.Labels {
	if project == "shop" && host == "web1" {
		return kemi.LabelsOf("owner", "kim")
	}
	return nil
}

// What the inventory adds stands in the record, so that it is the same in each replay.
func TestRemoteWriteEnriches(t *testing.T) {
	h := openHouse(t, func(o *Options) { o.Table = codec.NewTable(hostOwner{}, time.Now) })
	body := packed(true, func(e *codec.Encoder) {
		one(e, time.Now(), 1, "__name__", "m", "host", "web1")
		one(e, time.Now(), 1, "__name__", "m", "host", "web2")
	})
	if status, text, _ := h.post("/api/v1/write", body); status != 204 {
		t.Fatalf("%d %s", status, text)
	}
	if got, want := h.records()[0].Header(codec.HeaderEnrich), `{"web1":{"owner":"kim"}}`; got != want {
		t.Fatalf("header %s, want %s", got, want)
	}
	if got, want := h.names(), []string{`{__name__="m", host="web1", owner="kim"}`, `{__name__="m", host="web2"}`}; !slices.Equal(got, want) {
		t.Fatalf("stored %v, want %v", got, want)
	}
}

// Many senders at once: what was acknowledged is on the log, each once.
func TestRemoteWriteConcurrent(t *testing.T) {
	h := openHouse(t, nil)
	var wg sync.WaitGroup
	now := time.Now()
	for s := range 8 {
		wg.Go(func() {
			for n := range 20 {
				body := packed(s%2 == 0, func(e *codec.Encoder) {
					for i := range 50 {
						one(e, now.Add(time.Duration(n)*time.Second), float64(n), "__name__", "m", "i", fmt.Sprint(i), "sender", fmt.Sprint(s))
					}
				})
				contentType := []string{codec.RemoteWrite1, codec.RemoteWrite2}[s%2]
				if status, text, _ := h.post("/api/v1/write", body, "Content-Type", contentType); status != 204 {
					t.Errorf("%d %s", status, text)
				}
			}
		})
	}
	wg.Wait()
	stored := h.stored()
	if len(stored) != 400 {
		t.Fatalf("%d series", len(stored))
	}
	for name, ps := range stored {
		var at []kemi.Millis
		for _, p := range ps {
			at = append(at, p.At...)
		}
		if len(at) != 20 || !slices.IsSorted(at) {
			t.Fatalf("%s: %v", name, at)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	typ := reflect.TypeFor[Config]()
	for i := range typ.NumField() {
		c := DefaultConfig()
		if typ.Field(i).Type.Kind() == reflect.String { // any will do
			continue
		}
		reflect.ValueOf(&c).Elem().Field(i).SetInt(-1)
		key := strings.Split(typ.Field(i).Tag.Get("yaml"), ",")[0]
		if err := c.Validate(); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: -1: %v", key, err)
		}
	}
	c := DefaultConfig()
	c.MemoryBytes = 1 << 20
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "memoryBytes") {
		t.Error(err)
	}
}

var _ bus.Bus = (*failingBus)(nil)

// What a message says in a field that is not known here is not stored: the sender hears of it, and all else is kept.
func TestRemoteWriteTellsOfUnknownFields(t *testing.T) {
	now := time.Now().UnixMilli()
	field := func(number uint64) []byte { return append(binary.AppendUvarint(nil, number<<3), 1) }
	wrapped := func(number uint64, m []byte) []byte {
		return append(binary.AppendUvarint(binary.AppendUvarint(nil, number<<3|2), uint64(len(m))), m...)
	}
	sample := func(extra []byte) []byte {
		b, err := (&writev2.Sample{Value: 7, Timestamp: now}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return append(b, extra...)
	}
	symbols := slices.Concat(wrapped(4, nil), wrapped(4, []byte("__name__")), wrapped(4, []byte("m")))
	series := func(parts ...[]byte) []byte {
		return wrapped(5, slices.Concat(append([][]byte{{0x0a, 2, 1, 2}}, parts...)...))
	}
	hist, err := (&writev2.Histogram{Count: &writev2.Histogram_CountInt{}, ZeroCount: &writev2.Histogram_ZeroCountInt{}, Timestamp: now}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	label := slices.Concat(wrapped(1, []byte("__name__")), wrapped(2, []byte("m")))
	v1 := func(parts ...[]byte) []byte {
		return wrapped(1, slices.Concat(append([][]byte{wrapped(1, label)}, parts...)...))
	}
	for name, c := range map[string]struct {
		v1                  bool
		body                []byte
		want                string
		samples, histograms int
	}{
		"request":        {false, slices.Concat(symbols, series(wrapped(2, sample(nil))), field(9)), "field 9 of the request", 1, 0},
		"only unknown":   {false, slices.Concat(symbols, wrapped(6, sample(nil))), "field 6 of the request", 0, 0},
		"series":         {false, slices.Concat(symbols, series(wrapped(2, sample(nil)), field(15))), "field 15 of a series", 1, 0},
		"series, bytes":  {false, slices.Concat(symbols, series(wrapped(2, sample(nil)), wrapped(7, []byte("x")))), "field 7 of a series", 1, 0},
		"sample":         {false, slices.Concat(symbols, series(wrapped(2, sample(field(4))))), "field 4 of a sample", 1, 0},
		"histogram":      {false, slices.Concat(symbols, series(wrapped(3, append(slices.Clone(hist), 18<<3|0x80, 1, 1)))), "field 18 of a histogram", 0, 1},
		"exemplar":       {false, slices.Concat(symbols, series(wrapped(2, sample(nil)), wrapped(4, field(5)))), "field 5 of an exemplar", 1, 0},
		"metadata":       {false, slices.Concat(symbols, series(wrapped(2, sample(nil)), wrapped(5, slices.Concat(field(1), field(6))))), "field 6 of metadata", 1, 0},
		"request 1.0":    {true, slices.Concat(v1(wrapped(2, sample(nil))), wrapped(4, []byte("x"))), "field 4 of the request", 1, 0},
		"series 1.0":     {true, v1(wrapped(2, sample(nil)), field(9)), "field 9 of a series", 1, 0},
		"sender of 1.0":  {true, slices.Concat(v1(wrapped(2, sample(nil))), field(2)), "", 1, 0}, // Cortex says by it who it is
		"start of draft": {false, slices.Concat(symbols, series(wrapped(2, sample(nil)), field(6))), "", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, nil)
			contentType := codec.RemoteWrite2
			if c.v1 {
				contentType = codec.RemoteWrite1
			}
			status, text, header := h.post("/api/v1/write", snappy.Encode(nil, c.body), "Content-Type", contentType, "Content-Encoding", "snappy")
			if (c.want == "") != (status == 204) || c.want != "" && status != 400 {
				t.Fatalf("%d %s", status, text)
			}
			if c.want != "" {
				wants(t, text, "1 fields of a kind that is not known here refused", c.want)
			}
			if got := header.Get("X-Prometheus-Remote-Write-Samples-Written"); !c.v1 && got != fmt.Sprint(c.samples) {
				t.Errorf("%q samples written, want %d", got, c.samples)
			}
			if got := header.Get("X-Prometheus-Remote-Write-Histograms-Written"); !c.v1 && got != fmt.Sprint(c.histograms) {
				t.Errorf("%q histograms written, want %d", got, c.histograms)
			}
			if got := len(h.names()); got != c.samples {
				t.Errorf("%d series stored, want %d", got, c.samples)
			}
		})
	}
}
