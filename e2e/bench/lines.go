package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// lineSeries is how many series the line protocols are measured with.
	lineSeries = 100_000
	// lineFields is how many fields an Influx line has, as agents send them.
	lineFields = 10
)

// lines is the series of one connection as lines of text, which are made while they are sent.
type lines struct {
	graphite bool
	heads    []string // of a device each, up to its fields: an Influx line; with Graphite the tags of lineFields lines
	rnd      *rand.Rand
	begin    int64 // seconds, of the first round
	round    int
	at       int
	buf      []byte
	sent     *atomic.Int64
}

func newLines(graphite bool, connection, connections int, begin int64, sent *atomic.Int64) *lines {
	l := &lines{graphite: graphite, rnd: rand.New(rand.NewPCG(1, uint64(connection))), begin: begin, sent: sent}
	separator := ","
	if graphite {
		separator = ";"
	}
	for i := range lineSeries / lineFields / connections {
		host, device := connection+i/10*connections, i%10
		tags := []string{
			"", fmt.Sprintf("dc=dc%d", host%4), fmt.Sprintf("device=dev%d", device), "env=production", "host=" + hostName(host), "instance=" + hostName(host) + ":9100", "os=linux",
			fmt.Sprintf("rack=r%03d", host%200), "region=kr-central-1", fmt.Sprintf("service=service-%02d", host%40), fmt.Sprintf("team=team-%d", host%8),
		}
		l.heads = append(l.heads, strings.Join(tags, separator))
	}
	return l
}

// next is some perRequest samples of a round.
func (l *lines) next(rounds int) ([]byte, bool) {
	if l.at == len(l.heads) {
		l.at, l.round = 0, l.round+1
	}
	if l.round >= rounds {
		return nil, false
	}
	b := l.buf[:0]
	at := l.begin + int64(l.round)
	n := 0
	for ; n < perRequest && l.at < len(l.heads); n += lineFields {
		head := l.heads[l.at]
		l.at++
		if !l.graphite {
			b = append(append(append(b, "node"...), head...), ' ')
		}
		for f := range lineFields {
			v := float64(l.rnd.IntN(10_000)) / 100
			if l.graphite {
				b = strconv.AppendInt(append(b, "node.metric_"...), int64(f), 10)
				b = append(append(b, head...), ' ')
				b = append(strconv.AppendFloat(b, v, 'f', -1, 64), ' ')
				b = append(strconv.AppendInt(b, at, 10), '\n')
				continue
			}
			if f > 0 {
				b = append(b, ',')
			}
			b = append(strconv.AppendInt(append(b, "metric_"...), int64(f), 10), '=')
			b = strconv.AppendFloat(b, v, 'f', -1, 64)
		}
		if !l.graphite {
			b = append(append(strconv.AppendInt(append(b, ' '), at, 10), "000000000"...), '\n')
		}
	}
	l.buf = b
	l.sent.Add(int64(n))
	return b, true
}

// benchLines sends series in a line protocol to one target: once as new ones, then again and again.
func benchLines(ctx context.Context, o options, ti int, graphite bool, r *report) error {
	dir, err := os.MkdirTemp("", "kemi-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := o.targets[ti]
	name := "Influx lines of 10 fields"
	if graphite {
		name = "Graphite lines with tags"
		if t.graphite, err = freeAddr(ctx); err != nil {
			return err
		}
	}
	s, err := start(ctx, &t, dir)
	if err != nil {
		return err
	}
	defer s.stop()
	const back = 2 * 3600
	var sent atomic.Int64
	all := make([]*lines, o.connections)
	for c := range all {
		all[c] = newLines(graphite, c, o.connections, time.Now().Unix()-back, &sent)
	}
	for _, phase := range []struct {
		name   string
		rounds int
	}{{"new", 1}, {"steady", back}} {
		before, err := s.usage()
		if err != nil {
			return err
		}
		had := sent.Load()
		deadline := time.Now().Add(o.phase)
		next := func(c int) ([]byte, bool) {
			if phase.name != "new" && time.Now().After(deadline) {
				return nil, false
			}
			return all[c].next(phase.rounds)
		}
		if graphite {
			err = s.stream(ctx, o.connections, next)
		} else {
			_, err = s.post("/write", o.connections, func(c int) (body, bool) {
				b, ok := next(c)
				return body{data: b}, ok
			})
		}
		if err != nil {
			return err
		}
		if graphite { // it has no answer
			if err := s.took(sent.Load()); err != nil {
				return err
			}
		}
		after, err := s.settle()
		if err != nil {
			return err
		}
		rate := float64(sent.Load()-had) / (after.cpu - before.cpu).Seconds()
		r.set(ti, fmt.Sprintf("%s, %d series, %s, samples per CPU-second", name, lineSeries, phase.name), fmt.Sprintf("%.0f", rate), rate, true)
	}
	return nil
}

// stream writes to the Graphite port over n connections.
func (s *server) stream(ctx context.Context, n int, next func(connection int) ([]byte, bool)) error {
	errs := make(chan error, n)
	for c := range n {
		go func() {
			errs <- func() error {
				var d net.Dialer
				conn, err := d.DialContext(ctx, "tcp", s.target.graphite)
				if err != nil {
					return err
				}
				defer conn.Close()
				for b, ok := next(c); ok; b, ok = next(c) {
					if _, err := conn.Write(b); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// took waits until the server says that it has taken so many samples from Graphite.
func (s *server) took(want int64) error {
	have := 0.0
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		resp, err := http.Get(s.url + "/metrics")
		if err != nil {
			return err
		}
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			if v, ok := bytes.CutPrefix(sc.Bytes(), []byte(s.target.graphiteTaken+" ")); ok {
				have, _ = strconv.ParseFloat(string(v), 64)
			}
		}
		resp.Body.Close()
		if have == float64(want) {
			return nil
		}
	}
	return fmt.Errorf("it took %.0f samples of %d", have, want)
}
