package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// corpus is what was loaded: hosts with ten metrics each over the whole range, and 90 more for a few rounds.
type corpus struct {
	hosts       int
	first, last int64 // ms; last is a multiple of the largest downsample interval below
}

// hot are the metrics that go over the whole range.
var hot = []string{"cpu_user", "cpu_system", "cpu_iowait", "cpu_idle", "load_1m", "load_5m", "mem_used_percent", "disk_used_percent", "net_recv_bytes", "requests"}

const coldRounds = 4

// question is asked of KEMI in OpenTSDB's JSON where that can ask it, and of the others in PromQL.
type question struct {
	name string
	span time.Duration
	step time.Duration // 0: at one time
	prom string        // an expression, or with a path what is appended to it
	path string        // other than query and query_range
	ots  []sub
}

type sub struct {
	Metric     string   `json:"metric"`
	Aggregator string   `json:"aggregator"`
	Downsample string   `json:"downsample"`
	Rate       bool     `json:"rate,omitempty"`
	Filters    []filter `json:"filters"`
}

type filter struct {
	Type    string `json:"type"`
	Tagk    string `json:"tagk"`
	Filter  string `json:"filter"`
	GroupBy bool   `json:"groupBy"`
}

func by(tag string) filter { return filter{"wildcard", tag, "*", true} }

func (c *corpus) questions() []question {
	h := hostName(c.hosts / 3)
	host := filter{"literal_or", "host", h, false}
	var eight []sub
	for _, m := range hot[:8] {
		eight = append(eight, sub{m, "avg", "1m-avg", false, []filter{host}})
	}
	all := time.Duration(c.last-c.first) * time.Millisecond
	return []question{
		{name: "last value of a series", span: time.Minute, prom: `load_5m{host="` + h + `"}`, ots: []sub{{"load_5m", "max", "1m-last", false, []filter{host}}}},
		{name: "8 metrics of a host, 1 h", span: time.Hour, step: time.Minute, prom: `{__name__=~"` + hot[0] + join(hot[1:8]) + `",host="` + h + `"}`, ots: eight},
		{name: "sum by host, all of the time, 1 m step", span: all, step: time.Minute, prom: `sum by (host) (load_5m)`, ots: []sub{{"load_5m", "sum", "1m-avg", false, []filter{by("host")}}}},
		{name: "max per 15 m by dc, all of the time", span: all, step: 15 * time.Minute, prom: `max by (dc) (max_over_time(cpu_user[15m]))`, ots: []sub{{"cpu_user", "max", "15m-max", false, []filter{by("dc")}}}},
		{name: "avg per 1 h by host, all of the time", span: all, step: time.Hour, prom: `avg by (host) (avg_over_time(mem_used_percent[1h]))`, ots: []sub{{"mem_used_percent", "avg", "1h-avg", false, []filter{by("host")}}}},
		{name: "rate by service, 6 h", span: 6 * time.Hour, step: time.Minute, prom: `sum by (service) (rate(net_recv_bytes[5m]))`, ots: []sub{{"net_recv_bytes", "sum", "1m-max", true, []filter{by("service")}}}},
		{name: "top 10 of 1 h", span: time.Hour, prom: `topk(10, max_over_time(load_1m[1h]))`},
		{name: "p95 by dc, 1 h", span: time.Hour, step: time.Minute, prom: `quantile by (dc) (0.95, cpu_user)`, ots: []sub{{"cpu_user", "p95", "1m-avg", false, []filter{by("dc")}}}},
		{name: "count by regular expression", span: time.Minute, prom: `count by (team) (cpu_idle{host=~"host-.*7"})`, ots: []sub{{"cpu_idle", "count", "1m-last", false, []filter{{"regexp", "host", "host-.*7$", false}, by("team")}}}},
		{name: "count of all series by service", span: time.Minute, prom: `count by (service) ({__name__=~".+"})`, ots: []sub{{"-", "count", "1m-last", false, []filter{by("service")}}}},
		{name: "values of a label", span: all, path: "/api/v1/label/host/values"},
	}
}

func join(names []string) (s string) {
	for _, n := range names {
		s += "|" + n
	}
	return s
}

// request asks q of t.
func (q *question) request(t *target, base string, c *corpus) (*http.Request, error) {
	begin := max(c.first, c.last-q.span.Milliseconds())
	if t.ours && q.ots != nil {
		b, err := json.Marshal(map[string]any{"start": begin, "end": c.last - 1, "msResolution": true, "queries": q.ots})
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequest(http.MethodPost, base+"/api/v2/query", bytes.NewReader(b))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return req, err
	}
	seconds := func(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64) }
	v := url.Values{"nocache": {"1"}} // VictoriaMetrics would answer from its cache
	path := "/api/v1/query"
	switch {
	case q.path != "":
		path = q.path
		v.Set("start", seconds(begin))
		v.Set("end", seconds(c.last))
	case q.step == 0:
		v.Set("query", q.prom)
		v.Set("time", seconds(c.last))
	default:
		path = "/api/v1/query_range"
		v.Set("query", q.prom)
		v.Set("start", seconds(begin))
		v.Set("end", seconds(c.last))
		v.Set("step", seconds(q.step.Milliseconds()))
	}
	return http.NewRequest(http.MethodGet, base+path+"?"+v.Encode(), nil)
}

// ask gives how many series or values the answer has.
func (q *question) ask(s *server, c *corpus) (n int, took time.Duration, err error) {
	req, err := q.request(s.target, s.url, c)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	took = time.Since(began)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.300s", resp.Status, b)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", q.name, err)
	}
	var list []json.RawMessage
	if json.Unmarshal(b, &list) == nil {
		return len(list), took, nil
	}
	var prom struct{ Data json.RawMessage }
	if err := json.Unmarshal(b, &prom); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", q.name, err)
	}
	if json.Unmarshal(prom.Data, &list) == nil {
		return len(list), took, nil
	}
	var data struct{ Result []json.RawMessage }
	if err := json.Unmarshal(prom.Data, &data); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", q.name, err)
	}
	return len(data.Result), took, nil
}

// benchQueries loads a target and asks it, and then looks at its disk and how quickly it comes back.
func benchQueries(ctx context.Context, o options, ti int, r *report) error {
	dir, err := os.MkdirTemp("", "kemi-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &o.targets[ti]
	s, err := start(ctx, t, dir)
	if err != nil {
		return err
	}
	defer func() { s.stop() }()
	c, samples, err := load(s, o)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	q := c.questions()[0]
	for n, began := 0, time.Now(); n == 0; time.Sleep(100 * time.Millisecond) { // some show what they have taken seconds later
		if n, _, err = q.ask(s, c); err != nil || time.Since(began) > time.Minute {
			return errors.Join(errors.New("the newest sample cannot be found"), err)
		}
	}
	if o.wants("query") {
		for _, q := range c.questions() {
			if err := r.question(s, ti, &q, c, o.ask); err != nil {
				return err
			}
		}
	}
	if o.wants("disk") {
		time.Sleep(o.settled)
		if _, err := s.settle(); err != nil {
			return err
		}
		bytes := float64(diskBytes(filepath.Join(dir, "data")))
		if t.ours {
			log := float64(diskBytes(filepath.Join(dir, "data", "bus")))
			bytes -= log
			r.set(ti, "disk, log of record, bytes a sample", fmt.Sprintf("%.2f", log/samples), 0, false)
		}
		r.set(ti, fmt.Sprintf("disk, bytes a sample, %s after the last", o.settled), fmt.Sprintf("%.2f", bytes/samples), bytes, false)
	}
	if !o.wants("restart") {
		return nil
	}
	again := func(name string) error {
		began := time.Now()
		if s, err = start(ctx, t, dir); err != nil {
			return err
		}
		ready := time.Since(began)
		for n := 0; n == 0; {
			if time.Since(began) > time.Minute {
				return errors.New("no answer a minute after the restart")
			}
			if n, _, err = q.ask(s, c); err != nil {
				n = 0 // it may answer that it is not there yet
			}
		}
		answer := time.Since(began)
		r.set(ti, "restart "+name+" until ready / until the newest sample is answered", fmt.Sprintf("%.2f / %.2f s", ready.Seconds(), answer.Seconds()), answer.Seconds(), false)
		return nil
	}
	s.stop()
	if err := again("after a clean stop"); err != nil {
		return err
	}
	s.kill()
	return again("after kill -9")
}

// load sends the corpus.
func load(s *server, o options) (*corpus, float64, error) {
	step := int64(o.stepSeconds) * 1000
	end := time.Now().UnixMilli() / 60_000 * 60_000
	rounds := int(int64(o.hours)*3_600_000/step) + 1
	var sent atomic.Int64
	fleets := make([]*fleet, o.connections)
	for i := range fleets {
		f := newFleet(i, rounds, step, end, &sent)
		for host := i; host < o.hosts; host += o.connections {
			for m, name := range hot {
				k := walk
				if m >= 8 {
					k = counter
				}
				f.add(name, host, m, k, 0)
			}
			for m := range 90 {
				f.add(fmt.Sprintf("node_metric_%02d", m), host, m, walk, rounds-coldRounds)
			}
		}
		fleets[i] = f
	}
	if _, err := s.post(s.target.write, o.connections, func(i int) (body, bool) { return fleets[i].next() }); err != nil {
		return nil, 0, err
	}
	if _, err := s.settle(); err != nil {
		return nil, 0, err
	}
	return &corpus{hosts: o.hosts, first: fleets[0].begin, last: end}, float64(sent.Load()), nil
}

// question asks again and again for so long, and notes the median and what it cost.
func (r *report) question(s *server, ti int, q *question, c *corpus, long time.Duration) error {
	n, _, err := q.ask(s, c) // the first one warms up
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%s: answered nothing", q.name)
	}
	before, err := s.usage()
	if err != nil {
		return err
	}
	var took []time.Duration
	for began := time.Now(); len(took) < 3 || time.Since(began) < long && len(took) < 2000; {
		_, d, err := q.ask(s, c)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	after, err := s.usage()
	if err != nil {
		return err
	}
	slices.Sort(took)
	cpu := ms(after.cpu-before.cpu) / float64(len(took))
	text := fmt.Sprintf("%.1f / %.1f ms", ms(quantile(took, 0.5)), cpu)
	if want, ok := r.answered[q.name]; !ok {
		r.answered[q.name] = n
	} else if n != want {
		text += fmt.Sprintf(", with %d series in the answer and not %d", n, want)
	}
	r.set(ti, "query, "+q.name+", p50 / CPU", text, cpu, false)
	return nil
}
