package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

var jsonLines = map[string]string{"Content-Type": "application/x-ndjson"}

// writer makes log lines of a few applications: access lines, key=value lines, stack-like lines and Korean JSON messages, with ids that
// come back a few times.
type writer struct {
	rnd  *rand.Rand
	id   int
	left int
	ids  []string
}

func (w *writer) line() (app, level, text string) {
	r := w.rnd
	if len(w.ids) < 100 || r.IntN(4) == 0 {
		id := fmt.Sprintf("%016x", r.Uint64())
		if len(w.ids) < 100 {
			w.ids = append(w.ids, id)
		} else {
			w.ids[r.IntN(100)] = id
		}
	}
	id := w.ids[r.IntN(len(w.ids))]
	switch r.IntN(5) {
	case 0:
		return "nginx", "info", fmt.Sprintf(`10.%d.%d.%d - - "GET /api/v1/orders/%d HTTP/1.1" %d %d "-" "Mozilla/5.0" rt=0.%03d`, r.IntN(4), r.IntN(256), r.IntN(256), r.IntN(1e6), []int{200, 200, 200, 304, 404, 500}[r.IntN(6)], r.IntN(50_000), r.IntN(1000))
	case 1:
		return "hdfs", "info", fmt.Sprintf("dfs.DataNode$PacketResponder: Received block blk_%d of size %d from /10.250.%d.%d", r.Int64(), r.IntN(67108864), r.IntN(256), r.IntN(256))
	case 2:
		return "sshd", "warn", fmt.Sprintf("Failed password for invalid user user%d from 173.234.%d.%d port %d ssh2", r.IntN(500), r.IntN(256), r.IntN(256), r.IntN(65536))
	case 3:
		return "order", "error", fmt.Sprintf("request_id=%s user=%d action=checkout took=%dms error=\"connection reset by peer\"", id, r.IntN(1e5), r.IntN(3000))
	}
	return "pay", "error", fmt.Sprintf(`{"trace":"%s","msg":"주문 서비스에서 결제 요청 처리에 실패했습니다: 응답코드 %d","elapsed":%d}`, id, 500+r.IntN(4), r.IntN(5000))
}

// next is about a megabyte of text as JSON lines.
func (w *writer) next() (body, int, bool) {
	if w.left <= 0 {
		return body{}, 0, false
	}
	var b bytes.Buffer
	raw, now := 0, time.Now().UnixNano()
	for raw < 1<<20 {
		app, level, text := w.line()
		raw += len(text) + 1
		now++
		l, _ := json.Marshal(map[string]any{"_time": now, "host": fmt.Sprintf("host-%d-%02d", w.id, w.rnd.IntN(50)), "app": app, "level": level, "_msg": text})
		b.Write(l)
		b.WriteByte('\n')
	}
	w.left -= raw
	return body{data: b.Bytes(), headers: jsonLines}, raw, true
}

func benchLogs(ctx context.Context, o options, row func(what, format string, args ...any)) error {
	dir, err := os.MkdirTemp("", "kemi-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, &o.targets[0], dir)
	if err != nil {
		return err
	}
	defer func() { s.stop() }()
	// Bodies are made beforehand: making them must not slow the senders.
	bodies := make([][]body, o.connections)
	var raw, lines float64
	for c := range bodies {
		w := &writer{rnd: rand.New(rand.NewPCG(2, uint64(c))), id: c, left: o.logMB << 20 / o.connections}
		for b, n, ok := w.next(); ok; b, n, ok = w.next() {
			bodies[c] = append(bodies[c], b)
			raw += float64(n)
			lines += float64(bytes.Count(b.data, []byte{'\n'}))
		}
	}
	before, err := s.usage()
	if err != nil {
		return err
	}
	took, err := s.post("/api/v2/logs", o.connections, func(c int) (body, bool) {
		if len(bodies[c]) == 0 {
			return body{}, false
		}
		b := bodies[c][0]
		bodies[c] = bodies[c][1:]
		return b, true
	})
	if err != nil {
		return err
	}
	behind := time.Now()
	if err := s.waitLogs(int(lines)); err != nil {
		return err
	}
	lag := time.Since(behind)
	after, err := s.settle()
	if err != nil {
		return err
	}
	cpu := (after.cpu - before.cpu).Seconds()
	row("logs, lines per CPU-second of the server", "%.0f", lines/cpu)
	row("logs, raw MB per CPU-second of the server, settled", "%.1f", raw/1e6/cpu)
	row("logs, acknowledgement of 1 MiB p50 / p99 / max", "%.0f / %.0f / %.0f ms", ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), ms(quantile(took, 1)))
	row("logs, last acknowledgement until all can be found", "%.1f s", lag.Seconds())
	row("logs, highest resident memory", "%.0f MiB", float64(after.resident)/(1<<20))
	s.stop()
	row("logs, raw text to disk", "%.2f", raw/float64(diskBytes(filepath.Join(dir, "data", "logs"))))
	return nil
}

// waitLogs waits until a count of everything is what was sent.
func (s *server) waitLogs(want int) error {
	u := s.url + "/api/v2/logs/histogram?" + url.Values{"query": {"*"}, "start": {"1d-ago"}, "end": {"now"}, "step": {"1d"}}.Encode()
	var got int
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		resp, err := http.Get(u)
		if err != nil {
			return err
		}
		var h struct {
			Buckets []struct {
				Count int `json:"count"`
			} `json:"buckets"`
		}
		err = json.NewDecoder(resp.Body).Decode(&h)
		resp.Body.Close()
		if err != nil {
			return err
		}
		got = 0
		for _, b := range h.Buckets {
			got += b.Count
		}
		if got == want {
			return nil
		}
		if got > want {
			return fmt.Errorf("%d lines can be found, only %d were sent", got, want)
		}
	}
	return fmt.Errorf("only %d of %d lines can be found", got, want)
}
