package storetest

import (
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
)

// BenchSeries measures what a store does with 100 000 series of eleven labels, 2 000 samples a batch: how long a sample of a known
// series takes, a late one, a new series, what a series takes in memory, and how fast 1 000 series × 12 h at 15 s are read back.
func BenchSeries(b *testing.B, open OpenSeries) {
	const series, perBatch = 100_000, 2000
	labels := make([]kemi.Labels, series)
	for i := range labels {
		host := "host-" + strconv.Itoa(i/100)
		labels[i] = named("metric_"+strconv.Itoa(i%100), "host", host, "dc", "dc-"+strconv.Itoa(i/100%4), "service", "svc-"+strconv.Itoa(i/100%20),
			"rack", strconv.Itoa(i/100%40), "os", "linux", "arch", "amd64", "env", "prod", "team", "team-"+strconv.Itoa(i%7), "job", "agent", "instance", host+":9100")
	}
	b.Run("Append", func(b *testing.B) {
		h := &seriesBench{b: b, table: codec.NewTable(nil, time.Now), rnd: rand.New(rand.NewPCG(1, 2))}
		h.store = open(b, b.TempDir(), time.Now)
		defer h.store.Close()
		at := time.Now().Add(-2 * time.Hour).UnixMilli()
		h.batches(labels, perBatch)
		before := heap()
		created := h.round(at)
		perSeries := float64(heap()-before) / series
		h.round(at + 15000)
		var spent time.Duration
		samples := 0
		for i := int64(0); b.Loop(); i++ {
			spent += h.round(at + 30000 + i*15000)
			samples += series
		}
		b.ReportMetric(float64(spent.Nanoseconds())/float64(samples), "ns/sample")
		b.ReportMetric(float64(created.Nanoseconds())/series, "ns/new-series")
		b.ReportMetric(perSeries, "B/series")
	})
	b.Run("Late", func(b *testing.B) {
		h := &seriesBench{b: b, table: codec.NewTable(nil, time.Now), rnd: rand.New(rand.NewPCG(1, 2))}
		h.store = open(b, b.TempDir(), time.Now)
		defer h.store.Close()
		h.batches(labels[:10_000], perBatch)
		at := time.Now().Add(-2 * time.Hour).UnixMilli()
		h.round(at + 3600e3)
		var spent time.Duration
		samples := 0
		for i := int64(0); b.Loop(); i++ {
			spent += h.round(at + i*1000)
			samples += 10_000
		}
		b.ReportMetric(float64(spent.Nanoseconds())/float64(samples), "ns/sample")
	})
	b.Run("Select", func(b *testing.B) {
		h := &seriesBench{b: b, table: codec.NewTable(nil, time.Now), rnd: rand.New(rand.NewPCG(1, 2))}
		h.store = open(b, b.TempDir(), time.Now)
		defer h.store.Close()
		at := time.Now().Add(-12 * time.Hour).UnixMilli()
		var one []kemi.Labels
		for _, l := range labels {
			if l.Get(kemi.MetricName) == "metric_7" {
				one = append(one, l)
			}
		}
		h.batches(one, perBatch)
		for i := range int64(12 * 240) {
			h.round(at + i*15000)
		}
		sel := store.Selector{{Name: kemi.MetricName, Value: "metric_7"}}
		samples := 0
		start := time.Now()
		for b.Loop() {
			for p, err := range h.store.Select(b.Context(), benchIdentity, sel, kemi.Range{From: kemi.Millis(at), To: kemi.Millis(at) + 12*3600e3}) {
				if err != nil {
					b.Fatal(err)
				}
				samples += len(p.At)
			}
		}
		if want := len(one) * 12 * 240 * b.N; samples != want {
			b.Fatalf("%d samples, want %d", samples, want)
		}
		b.ReportMetric(float64(samples)/time.Since(start).Seconds()/1e6, "Msamples/s")
	})
}

var benchIdentity = kemi.Identity{Subject: "bench", Project: "default", Permissions: kemi.AllPermissions}

type seriesBench struct {
	b     *testing.B
	store store.SeriesStore
	table *codec.Table
	rnd   *rand.Rand
	all   []*codec.SeriesBatch
	next  int64
}

// batches makes one batch for every perBatch series; round puts new samples into the same ones.
func (h *seriesBench) batches(labels []kemi.Labels, perBatch int) {
	for i := 0; i < len(labels); i += perBatch {
		var ps []kemi.Points
		for _, l := range labels[i:min(i+perBatch, len(labels))] {
			ps = append(ps, points(l, 0, 0))
		}
		h.all = append(h.all, h.table.BatchOf("default", ps))
	}
}

// round appends a sample to every series and tells how long the store took.
func (h *seriesBench) round(at int64) (spent time.Duration) {
	for _, batch := range h.all {
		for i := range batch.At {
			batch.At[i] = kemi.Millis(at)
			batch.Values[i] = math.Floor(h.rnd.Float64()*1000) / 10
		}
		h.next++
		start := time.Now()
		if err := h.store.Append(h.b.Context(), batch, store.Position{Next: h.next}); err != nil {
			h.b.Fatal(err)
		}
		spent += time.Since(start)
	}
	return spent
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
