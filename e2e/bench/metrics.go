package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

const perRequest = 2000

var remoteWrite = map[string]string{
	"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0",
}

// fleet is the series of one connection: hosts with 100 series each and 11 labels a series.
type fleet struct {
	series []prompb.TimeSeries
	values []float64
	rnd    *rand.Rand
	begin  int64
	round  int
	at     int
	rounds int
}

func newFleet(connection, series, rounds int) *fleet {
	f := &fleet{rnd: rand.New(rand.NewPCG(1, uint64(connection))), rounds: rounds}
	f.begin = time.Now().Add(-time.Duration(rounds) * 15 * time.Second).UnixMilli()
	for i := range series {
		host := fmt.Sprintf("host-%d-%05d", connection, i/100)
		ls := []prompb.Label{
			{Name: "__name__", Value: fmt.Sprintf("node_metric_%02d_total", i%100)},
			{Name: "dc", Value: fmt.Sprintf("dc%d", i/100%4)},
			{Name: "device", Value: fmt.Sprintf("dev%d", i%10)},
			{Name: "env", Value: "production"},
			{Name: "host", Value: host},
			{Name: "instance", Value: host + ":9100"},
			{Name: "os", Value: "linux"},
			{Name: "rack", Value: fmt.Sprintf("r%03d", i/100%200)},
			{Name: "region", Value: "kr-central-1"},
			{Name: "service", Value: fmt.Sprintf("service-%02d", i/100%40)},
			{Name: "team", Value: fmt.Sprintf("team-%d", i/100%8)},
		}
		f.series = append(f.series, prompb.TimeSeries{Labels: ls, Samples: make([]prompb.Sample, 1)})
		f.values = append(f.values, float64(f.rnd.IntN(1000)))
	}
	return f
}

// next is the next request. Values are random walks with two decimals.
func (f *fleet) next() (body, bool) {
	if f.at >= len(f.series) {
		f.at = 0
		f.round++
	}
	if f.round >= f.rounds {
		return body{}, false
	}
	end := min(f.at+perRequest, len(f.series))
	for i := f.at; i < end; i++ {
		f.values[i] += float64(f.rnd.IntN(200)-100) / 100
		f.series[i].Samples[0] = prompb.Sample{Timestamp: f.begin + int64(f.round)*15_000, Value: f.values[i]}
	}
	b, err := (&prompb.WriteRequest{Timeseries: f.series[f.at:end]}).Marshal()
	if err != nil {
		return body{}, false
	}
	f.at = end
	return body{data: snappy.Encode(nil, b), headers: remoteWrite}, true
}

type rowFunc func(what, format string, args ...any)

func benchMetrics(ctx context.Context, o options, row rowFunc) error {
	dir, err := os.MkdirTemp("", "kemi-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	s, err := start(ctx, o.bin, data)
	if err != nil {
		return err
	}
	defer func() { s.stop() }()
	fleets := make([]*fleet, o.connections)
	for c := range fleets {
		fleets[c] = newFleet(c, o.series/o.connections, o.rounds)
	}
	next := func(c int) (body, bool) { return fleets[c].next() }
	phase := func(name string, rounds int) error {
		before, err := s.usage()
		if err != nil {
			return err
		}
		for _, f := range fleets {
			f.rounds = rounds
		}
		took, err := s.post("/api/v1/write", o.connections, next)
		if err != nil {
			return err
		}
		after, err := s.settle()
		if err != nil {
			return err
		}
		samples := float64(len(took)) * perRequest
		row(name+", samples per CPU-second of the server", "%.0f", samples/(after.cpu-before.cpu).Seconds())
		row(name+", acknowledgement of 2 000 samples p50 / p99 / max", "%.1f / %.1f / %.1f ms", ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), ms(quantile(took, 1)))
		row(name+", highest resident memory", "%.0f MiB", float64(after.resident)/(1<<20))
		return nil
	}
	if err := phase("metrics, new series", 1); err != nil {
		return err
	}
	if err := phase("metrics, steady", o.rounds); err != nil {
		return err
	}
	query := fmt.Sprintf(`{"start":"%dms-ago","queries":[{"metric":"-","aggregator":"max","downsample":"15m-max","filters":[{"filter":"node_metric_01_total","groupby":true,"tagk":"metric","type":"literal_or"},{"filter":"*","groupby":true,"tagk":"dc","type":"wildcard"}]}]}`, int64(o.rounds+10)*15_000)
	if err := benchQuery(s, row, "query, max per 15 m by dc", "/api/v2/query", query); err != nil {
		return err
	}
	total := float64(o.series) * float64(o.rounds)
	s.stop()
	row("metrics, disk after a clean stop, head not yet compacted", "%.1f bytes a sample", float64(diskBytes(filepath.Join(data, "metrics")))/total)
	row("log of record, disk", "%.1f bytes a sample", float64(diskBytes(filepath.Join(data, "bus")))/total)
	began := time.Now()
	if s, err = start(ctx, o.bin, data); err != nil {
		return err
	}
	row("restart after a clean stop until ready", "%.2f s", time.Since(began).Seconds())
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	began = time.Now()
	if s, err = start(ctx, o.bin, data); err != nil {
		return err
	}
	row("restart after kill -9 until ready", "%.2f s", time.Since(began).Seconds())
	return nil
}

// benchQuery asks the same question ten times.
func benchQuery(s *server, row rowFunc, name, path, question string) error {
	before, err := s.usage()
	if err != nil {
		return err
	}
	const times = 10
	n := 0
	took, err := s.post(path, 1, func(int) (body, bool) {
		n++
		return body{data: []byte(question), headers: map[string]string{"Content-Type": "application/json"}}, n <= times
	})
	if err != nil {
		return err
	}
	resp, err := http.Post(s.url+path, "application/json", strings.NewReader(question))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer []json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(answer) == 0 {
		return fmt.Errorf("%s answered nothing", name)
	}
	after, err := s.usage()
	if err != nil {
		return err
	}
	row(name+", p50 / CPU a query", "%.1f ms / %.0f ms", ms(quantile(took, 0.5)), ms(after.cpu-before.cpu)/(times+1))
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
