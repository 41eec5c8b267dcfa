package main

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
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
	kinds  []kind
	from   []int // the round in which the series begins
	rnd    *rand.Rand
	begin  int64 // of the first round
	step   int64
	rounds int // to send
	round  int
	at     int
	sent   *atomic.Int64 // samples, of all connections
}

// kind is how values go on.
type kind uint8

const (
	walk    kind = iota // randomly, with two decimals
	counter             // up by whole numbers
)

func newFleet(connection, rounds int, step, end int64, sent *atomic.Int64) *fleet {
	return &fleet{rnd: rand.New(rand.NewPCG(1, uint64(connection))), rounds: rounds, step: step, begin: end - int64(rounds-1)*step, sent: sent}
}

// add adds a series of a host.
func (f *fleet) add(metric string, host, series int, k kind, from int) {
	name := hostName(host)
	ls := []prompb.Label{
		{Name: "__name__", Value: metric},
		{Name: "dc", Value: fmt.Sprintf("dc%d", host%4)},
		{Name: "device", Value: fmt.Sprintf("dev%d", series%10)},
		{Name: "env", Value: "production"},
		{Name: "host", Value: name},
		{Name: "instance", Value: name + ":9100"},
		{Name: "os", Value: "linux"},
		{Name: "rack", Value: fmt.Sprintf("r%03d", host%200)},
		{Name: "region", Value: "kr-central-1"},
		{Name: "service", Value: fmt.Sprintf("service-%02d", host%40)},
		{Name: "team", Value: fmt.Sprintf("team-%d", host%8)},
	}
	f.series = append(f.series, prompb.TimeSeries{Labels: ls, Samples: make([]prompb.Sample, 1)})
	f.values = append(f.values, float64(f.rnd.IntN(10_000))/100)
	f.kinds = append(f.kinds, k)
	f.from = append(f.from, from)
}

func hostName(host int) string { return fmt.Sprintf("host-%05d", host) }

// next is the next request.
func (f *fleet) next() (body, bool) {
	var some []prompb.TimeSeries
	for len(some) < perRequest && f.round < f.rounds {
		if f.at >= len(f.series) {
			if f.at, f.round = 0, f.round+1; len(some) > 0 {
				break
			}
			continue
		}
		i := f.at
		if f.at++; f.round < f.from[i] {
			continue
		}
		if f.kinds[i] == counter {
			f.values[i] = float64(int64(f.values[i])) + float64(f.rnd.IntN(5000))
		} else {
			f.values[i] += float64(f.rnd.IntN(200)-100) / 100
		}
		f.series[i].Samples[0] = prompb.Sample{Timestamp: f.begin + int64(f.round)*f.step, Value: f.values[i]}
		some = append(some, f.series[i])
	}
	if len(some) == 0 {
		return body{}, false
	}
	b, err := (&prompb.WriteRequest{Timeseries: some}).Marshal()
	if err != nil {
		return body{}, false
	}
	f.sent.Add(int64(len(some)))
	return body{data: snappy.Encode(nil, b), headers: remoteWrite}, true
}

// made is how many series have been sent.
func (f *fleet) made() int {
	if f.round > 0 {
		return len(f.series)
	}
	return f.at
}

// until is next that ends at a time, too.
func (f *fleet) until(deadline time.Time) func() (body, bool) {
	return func() (body, bool) {
		if time.Now().After(deadline) {
			return body{}, false
		}
		return f.next()
	}
}
