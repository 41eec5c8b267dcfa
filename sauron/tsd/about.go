package tsd

import (
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"kemi"
	"kemi/sauron/tsdhttp"
)

// pathWords are the words of the path behind /api/ and the version.
func pathWords(x *tsdhttp.Exchange) []string {
	words := strings.Split(strings.Trim(strings.ToLower(x.R.URL.Path), "/"), "/")[1:]
	if len(words) > 0 && words[0] == "v2" {
		words = words[1:]
	}
	return words
}

func (a *API) version(x *tsdhttp.Exchange) error {
	return x.JSON(map[string]string{ // the version is that of the protocol, the revision is ours
		"version": "2.4.1", "short_revision": a.o.Version, "full_revision": a.o.Version, "repo": "KEMI", "repo_status": "MINT",
		"branch": "", "host": "", "user": "", "timestamp": strconv.FormatInt(a.start.Unix(), 10),
	})
}

func (a *API) config(x *tsdhttp.Exchange) error { return x.JSON(a.o.Settings) }

func (a *API) dropCaches(x *tsdhttp.Exchange) error {
	a.o.IDs.Forget()
	a.o.Notes.Forget()
	return x.JSON(map[string]string{"status": "200", "message": "Caches dropped"})
}

// stats are the process's own metrics in OpenTSDB's form; stats/jvm is the memory of its runtime.
func (a *API) stats(x *tsdhttp.Exchange) error {
	if words := pathWords(x); len(words) > 1 {
		switch words[1] {
		case "jvm":
			return x.JSON(a.runtimeStats())
		case "threads", "region_clients":
			return tsdhttp.NotFound("Endpoint not found", "this server has no such statistics; /metrics and /debug/pprof tell of its threads")
		}
	}
	families, err := a.o.Metrics.Gather()
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	type stat struct {
		Metric    string            `json:"metric"`
		Timestamp int64             `json:"timestamp"`
		Value     string            `json:"value"`
		Tags      map[string]string `json:"tags"`
	}
	now := a.o.Now().Unix()
	var out []stat
	add := func(name string, labels []*dto.LabelPair, v float64) {
		s := stat{Metric: strings.ReplaceAll(name, "_", "."), Timestamp: now, Value: strconv.FormatFloat(v, 'f', -1, 64), Tags: map[string]string{"host": host}}
		for _, l := range labels {
			s.Tags[l.GetName()] = l.GetValue()
		}
		out = append(out, s)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				add(f.GetName(), m.GetLabel(), m.GetCounter().GetValue())
			case dto.MetricType_GAUGE:
				add(f.GetName(), m.GetLabel(), m.GetGauge().GetValue())
			case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
				add(f.GetName()+"_count", m.GetLabel(), float64(m.GetHistogram().GetSampleCount()))
				add(f.GetName()+"_sum", m.GetLabel(), m.GetHistogram().GetSampleSum())
			case dto.MetricType_SUMMARY:
				add(f.GetName()+"_count", m.GetLabel(), float64(m.GetSummary().GetSampleCount()))
				add(f.GetName()+"_sum", m.GetLabel(), m.GetSummary().GetSampleSum())
			default:
				add(f.GetName(), m.GetLabel(), m.GetUntyped().GetValue())
			}
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Metric < out[j].Metric })
	return x.JSON(out)
}

// runtimeStats are Go's in the fields that clients of stats/jvm read.
func (a *API) runtimeStats() map[string]any {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	started := kemi.MillisOf(a.start)
	return map[string]any{
		"memory": map[string]any{
			"heapMemoryUsage":            map[string]any{"init": 0, "used": m.HeapAlloc, "committed": m.HeapSys - m.HeapReleased, "max": -1},
			"nonHeapMemoryUsage":         map[string]any{"init": 0, "used": m.Sys - m.HeapSys, "committed": m.Sys - m.HeapSys, "max": -1},
			"objectsPendingFinalization": 0,
		},
		"gc":      map[string]any{"go": map[string]any{"collectionCount": m.NumGC, "collectionTime": m.PauseTotalNs / 1e6}},
		"runtime": map[string]any{"startTime": started, "uptime": kemi.MillisOf(a.o.Now()) - started, "vmName": "Go", "vmVendor": "Go", "vmVersion": runtime.Version()},
		"threads": map[string]any{"liveThreadCount": runtime.NumGoroutine()},
	}
}
