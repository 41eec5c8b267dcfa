package push_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
)

// lines is about a megabyte of text in n lines of 50 hosts and 5 applications, as JSON lines and as a push request of Loki.
func lines() (text int, js, loki []byte) {
	rng := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	streams := map[string][][]byte{}
	var order []string
	for text < 1<<20 {
		host, app, level := fmt.Sprintf("host-%02d", rng.IntN(50)), fmt.Sprintf("app-%d", rng.IntN(5)), []string{"info", "warn", "error"}[rng.IntN(3)]
		line := fmt.Sprintf(`10.%d.%d.%d - - "GET /api/v1/orders/%d?session=%016x HTTP/1.1" %d %d "-" "Mozilla/5.0 (X11; Linux x86_64) Chrome/120" rt=0.%03d`,
			rng.IntN(4), rng.IntN(256), rng.IntN(256), rng.IntN(1e6), rng.Uint64(), 200+rng.IntN(300), rng.IntN(50_000), rng.IntN(1000))
		if rng.IntN(5) == 0 {
			line = fmt.Sprintf(`{"trace":"%032x","msg":"주문 서비스에서 결제 요청 처리에 실패했습니다: 응답코드 %d","elapsed":%d}`, rng.Uint64(), 500+rng.IntN(4), rng.IntN(5000))
		}
		text += len(line) + 1
		at := now.Add(time.Duration(text))
		l, _ := json.Marshal(map[string]any{"_time": at.UnixNano(), "host": host, "app": app, "zone": "kr-1", "level": level, "_msg": line})
		b.Write(append(l, '\n'))
		labels := fmt.Sprintf(`{app=%q, host=%q, zone="kr-1"}`, app, host)
		if streams[labels] == nil {
			order = append(order, labels)
		}
		streams[labels] = append(streams[labels], lokiEntry(at, line, "level", level))
	}
	var pb []byte
	for _, labels := range order {
		pb = append(pb, lokiBody(labels, streams[labels]...)...)
	}
	return text, b.Bytes(), snappy.Encode(nil, pb)
}

// BenchmarkLogs is the whole of a request but the network: read, parse, encode, durable on disk.
func BenchmarkLogs(b *testing.B) {
	text, js, loki := lines()
	for name, c := range map[string]struct {
		path string
		body []byte
	}{"jsonlines": {"/insert/jsonline?_stream_fields=host,app,zone&_msg_field=_msg&_time_field=_time", js}, "loki-protobuf": {"/loki/api/v1/push", loki}} {
		b.Run(name, func(b *testing.B) {
			p := open(b, nil)
			used := func() time.Duration {
				var u syscall.Rusage
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
					b.Fatal(err)
				}
				return time.Duration(u.Utime.Nano() + u.Stime.Nano())
			}
			b.SetBytes(int64(text))
			b.ReportAllocs()
			before, n := used(), 0
			for b.Loop() {
				w := httptest.NewRecorder()
				p.routes.ServeHTTP(w, httptest.NewRequest("POST", c.path, bytes.NewReader(c.body)))
				if w.Code != 204 {
					b.Fatal(w.Code, w.Body)
				}
				n++
			}
			b.ReportMetric(float64((used()-before).Microseconds())/1e3/(float64(n)*float64(text)/1e6), "CPU-ms/MB")
		})
	}
}
