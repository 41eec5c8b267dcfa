package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// logsRandom compares the store with the plain meaning of Match on random records and random conditions. The seed is told, so
// that a failure can be repeated.
func logsRandom(t *testing.T, s *logStore) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := &logGenerator{rand.New(rand.NewPCG(seed, 1))}
	matched, asked := 0, 0
	for round := range 6 {
		for range 1 + g.IntN(4) {
			var rs []kemi.LogRecord
			for range g.IntN(400) {
				rs = append(rs, g.record())
			}
			s.index(rs...)
		}
		if round%2 == 1 {
			s.reopen()
		}
		for range 60 {
			q := store.LogQuery{Expr: g.expr(3), Range: allTime, Ascending: g.IntN(2) == 0}
			if g.IntN(2) == 0 {
				q.Limit = 1 + g.IntN(50)
			}
			if g.IntN(3) == 0 {
				from := kemi.Nanos(g.IntN(1000))
				q.Range = store.NanoRange{From: from, To: from + kemi.Nanos(g.IntN(500))}
			}
			project := []string{"default", "default", "other"}[g.IntN(3)]
			if n := s.check(project, q); n > 0 {
				matched++
			}
			asked++
			q.Limit = 0
			want := int64(len(s.expected(project, q)))
			if n, err := s.Count(context.Background(), reader(project), q, nil); err != nil || n[0].Count != want {
				t.Fatalf("count %v: %v %v, want %d", q.Expr, n, err, want)
			}
		}
	}
	if matched < asked/10 {
		t.Errorf("only %d of %d conditions matched anything: the test says little", matched, asked)
	}
}

// logGenerator makes records and conditions of few words, so that they meet.
type logGenerator struct{ *rand.Rand }

var logWords = []string{"error", "Error", "timeout", "pay", "payment", "a1b2c3", "12ms", "req-77", "10.24.1.3", "x_y", "결제", "승인", "응답시간", "응답 시간", "시간이",
	"한도 초과", "API를", "30초", "東京", "タワー", "é", "e\u0301", "\xff", "OOMKilled", "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef", "verylongwordwithoutanydigitatallinit", "🙂"}

func (g *logGenerator) word() string { return logWords[g.IntN(len(logWords))] }

func (g *logGenerator) body(n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(g.word())
		b.WriteString([]string{" ", " ", " ", "", ": ", "-", "="}[g.IntN(7)])
	}
	return b.String()
}

func (g *logGenerator) record() kemi.LogRecord {
	r := kemi.LogRecord{
		ID: fmt.Sprintf("%c-%d", 'a'+rune(g.IntN(4)), g.IntN(2500)), Project: []string{"default", "default", "other"}[g.IntN(3)],
		At: kemi.Nanos(g.IntN(1200)), Severity: kemi.Severity(g.IntN(26)), Body: g.body(g.IntN(8)),
		Stream: kemi.LabelsOf("service", []string{"pay", "order-1", "결제"}[g.IntN(3)], "host", fmt.Sprint("web0", g.IntN(3))),
	}
	if g.IntN(2) == 0 {
		r.Attrs = kemi.LabelsOf("status", fmt.Sprint(g.IntN(600)), "msg", g.body(2))
	}
	if g.IntN(5) == 0 {
		r.Attrs = append(r.Attrs, kemi.Label{Name: "level", Value: g.word()}).Normalize()
		r.Severity = kemi.Severity(g.IntN(2) * 17)
	}
	if g.IntN(3) == 0 {
		r.TraceID, r.SpanID = fmt.Sprintf("%032x", g.IntN(50)), fmt.Sprintf("%016x", g.IntN(50))
	}
	return r
}

func (g *logGenerator) fieldName() string {
	return []string{"", "", "", "", "service", "host", "status", "msg", "level", "trace_id", "span_id", "id", "nope"}[g.IntN(13)]
}

func (g *logGenerator) value(field string) string {
	switch field {
	case "service":
		return []string{"pay", "order", "order-1", "결제", "PAY"}[g.IntN(5)]
	case "host":
		return fmt.Sprint("web0", g.IntN(4))
	case "status":
		return fmt.Sprint(g.IntN(600))
	case "level":
		return []string{"error", "warn", "info", "warning", "critical", "payment", "5", "결제"}[g.IntN(8)]
	case "trace_id":
		return fmt.Sprintf("%032x", g.IntN(60))
	case "span_id":
		return fmt.Sprintf("%016x", g.IntN(60))
	case "id":
		return fmt.Sprintf("%c-%d", 'a'+rune(g.IntN(4)), g.IntN(2500))
	}
	return strings.TrimRight(g.body(1+g.IntN(2)), " ")
}

func (g *logGenerator) expr(depth int) store.LogExpr {
	if depth > 0 && g.IntN(3) == 0 {
		n := g.IntN(4)
		kids := make([]store.LogExpr, n)
		for i := range kids {
			kids[i] = g.expr(depth - 1)
		}
		switch g.IntN(3) {
		case 0:
			return store.LogAnd(kids)
		case 1:
			return store.LogOr(kids)
		}
		return store.LogNot{X: g.expr(depth - 1)}
	}
	field := g.fieldName()
	v := g.value(field)
	switch g.IntN(8) {
	case 0:
		return store.LogExists{Field: field}
	case 1:
		hi := g.value(field)
		r := store.LogRange{Field: field, Min: &v, MinOpen: g.IntN(2) == 0}
		if g.IntN(2) == 0 {
			r.Max, r.MaxOpen = &hi, g.IntN(2) == 0
		}
		return r
	case 2:
		if w, err := store.Wildcard(field, strings.Map(func(r rune) rune {
			return slices.Concat([]rune{r, r, r, r}, []rune("*?"))[g.IntN(6)]
		}, v)); err == nil {
			return w
		}
		return store.LogExists{Field: field}
	case 3:
		return store.LogRegexp{Field: field, Source: []string{"e", "[0-9]+", "^a", "시간$", "(?i)ERR", "pay(ment)?"}[g.IntN(6)]}
	case 4:
		runes := []rune(v)
		return store.LogPrefix{Field: field, Prefix: string(runes[:g.IntN(len(runes)+1)])}
	}
	return store.LogPhrase{Field: field, Text: v}
}

// BenchLogs measures a log store: taking records in batches of about 1 MiB until all is written, and questions after that.
// MB/s are of text and of wall time; run it with -cpu 1 to see it for one core.
func BenchLogs(b *testing.B, open OpenLogs) {
	b.Run("Index", func(b *testing.B) {
		s := open(b, b.TempDir())
		size := int64(0)
		n := int64(0)
		c := newLogCorpus(1)
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			batch, bytes := c.batch(1 << 20)
			size += bytes
			n++
			b.StartTimer()
			if err := s.Index(context.Background(), batch, store.Position{Next: n}); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Close(); err != nil { // what is not written yet counts, too
			b.Fatal(err)
		}
		b.SetBytes(size / int64(b.N))
		b.ReportMetric(float64(size)/1e6/b.Elapsed().Seconds(), "text-MB/s")
	})
	s := open(b, b.TempDir())
	defer s.Close()
	c := newLogCorpus(2)
	for n := range int64(32) {
		batch, _ := c.batch(1 << 20)
		if err := s.Index(context.Background(), batch, store.Position{Next: n + 1}); err != nil {
			b.Fatal(err)
		}
	}
	if f, ok := s.(interface{ Sync() error }); ok {
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	for _, q := range []struct {
		name  string
		e     store.LogExpr
		limit int
	}{
		{"Needle", store.LogPhrase{Text: c.id(12345)}, 10}, {"Absent", store.LogPhrase{Text: "yw58absent06tk"}, 10}, {"Word", store.LogPhrase{Text: "approved"}, 100},
		{"KoreanPhrase", store.LogPhrase{Text: "한도 초과"}, 100}, {"Regexp", store.LogRegexp{Source: "took 9[0-9]+ms"}, 100}, {"Newest", store.LogPhrase{Field: "host", Text: "web007"}, 100}, {"All", nil, 100},
	} {
		query := store.LogQuery{Expr: q.e, Range: allTime, Limit: q.limit}
		b.Run("Search/"+q.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := collectLogs(s.Search(context.Background(), reader("default"), query)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("Count/"+q.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Count(context.Background(), reader("default"), query, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// logCorpus makes lines as services write them: fixed text with numbers, addresses and ids in it, some Korean.
type logCorpus struct {
	rng  *rand.Rand
	n    int
	base kemi.Nanos
}

func newLogCorpus(seed uint64) *logCorpus {
	return &logCorpus{rng: rand.New(rand.NewPCG(seed, 2)), base: kemi.NanosOf(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
}

func (c *logCorpus) id(n int) string { return fmt.Sprintf("%016x", uint64(n+1)*0x9E3779B97F4A7C15) }

var corpusForms = []func(c *logCorpus) (string, kemi.Severity){
	func(c *logCorpus) (string, kemi.Severity) {
		return fmt.Sprintf("10.%d.%d.%d - - \"GET /api/v1/orders/%d HTTP/1.1\" 200 %d took %dms request=%s", c.rng.IntN(4), c.rng.IntN(16), c.rng.IntN(250), c.rng.IntN(1e6), c.rng.IntN(5e4), c.rng.IntN(900), c.id(c.n)), kemi.SeverityInfo
	},
	func(c *logCorpus) (string, kemi.Severity) {
		return fmt.Sprintf("INFO dfs.DataNode$PacketResponder: Received block blk_%d of size %d from /10.251.%d.%d", c.rng.Int64N(1e15), c.rng.IntN(67e6), c.rng.IntN(250), c.rng.IntN(250)), kemi.SeverityInfo
	},
	func(c *logCorpus) (string, kemi.Severity) {
		return fmt.Sprintf(`{"ts":"2026-01-02T03:04:05.%03dZ","level":"INFO","service":"pay","msg":"결제 승인 완료 주문번호=%d 금액=%d원","trace_id":"%s%s"}`, c.rng.IntN(1000), c.rng.IntN(1e8), c.rng.IntN(1e6), c.id(c.n), c.id(c.rng.IntN(1e9))), kemi.SeverityInfo
	},
	func(c *logCorpus) (string, kemi.Severity) {
		return fmt.Sprintf(`{"level":"WARN","service":"pay","msg":"payment approved after retry %d","user":"u%06d","elapsed_ms":%d}`, c.rng.IntN(5), c.rng.IntN(1e6), c.rng.IntN(3000)), kemi.SeverityWarn
	},
	func(c *logCorpus) (string, kemi.Severity) {
		if c.rng.IntN(10) > 0 {
			return fmt.Sprintf("sshd[%d]: Failed password for invalid user admin from 173.%d.%d.%d port %d ssh2", c.rng.IntN(65536), c.rng.IntN(250), c.rng.IntN(250), c.rng.IntN(250), c.rng.IntN(65536)), kemi.SeverityWarn
		}
		return fmt.Sprintf("결제 승인 실패: 한도 초과 주문번호=%d 회원=u%d", c.rng.IntN(1e8), c.rng.IntN(1e5)), kemi.SeverityError
	},
}

// batch is about so many bytes of lines, in the order of time, as one sender sends them.
func (c *logCorpus) batch(bytes int64) (rs []kemi.LogRecord, size int64) {
	streams := make([]kemi.Labels, 40)
	for i := range streams {
		streams[i] = kemi.LabelsOf("host", fmt.Sprintf("web%03d", i/4), "app", fmt.Sprint("app", i%4), "zone", "kr-1")
	}
	name := fmt.Sprintf("batch%08d-", c.n)
	for i := 0; size < bytes; i++ {
		body, sev := corpusForms[c.rng.IntN(len(corpusForms))](c)
		rs = append(rs, kemi.LogRecord{ID: name + fmt.Sprint(i), Project: "default", At: c.base + kemi.Nanos(c.n)*1e6, Severity: sev, Stream: streams[c.rng.IntN(len(streams))], Body: body})
		c.n++
		size += int64(len(body))
	}
	return rs, size
}
