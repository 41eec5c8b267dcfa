package pattern

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// lines makes records as hosts write them, and some as they should not.
type lines struct {
	*rand.Rand
	streams []kemi.Labels
	at      kemi.Nanos
	n       int
}

func newLines(seed uint64) *lines {
	g := &lines{Rand: rand.New(rand.NewPCG(seed, 1)), at: kemi.NanosOf(time.Date(2026, 3, 1, 23, 50, 0, 0, time.UTC))}
	for i := range 12 {
		g.streams = append(g.streams, kemi.LabelsOf("host", fmt.Sprintf("h%02d", i%5), "service", []string{"pay", "order", "결제"}[i%3]))
	}
	g.streams = append(g.streams, nil, kemi.LabelsOf("status", "200"))
	return g
}

func (g *lines) pick(of ...string) string { return of[g.IntN(len(of))] }

func (g *lines) ip() string { return fmt.Sprintf("10.%d.%d.%d", g.IntN(3), g.IntN(256), g.IntN(256)) }
func (g *lines) uuid() string {
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", g.Uint32(), g.IntN(1<<16), g.IntN(1<<12), g.IntN(1<<16), g.Int64N(1<<48))
}

func (g *lines) body() string {
	at := g.at.Time()
	if g.IntN(8) == 0 {
		at = at.Add(time.Duration(g.Int64N(int64(time.Hour))) - 30*time.Minute)
	}
	switch g.IntN(24) {
	case 0:
		return at.Format("2006-01-02T15:04:05.000Z") + fmt.Sprintf(" INFO request %d of %s took %dms", g.IntN(1000), g.pick("alice", "bob", "carol"), g.IntN(500))
	case 1:
		return at.Format("Jan _2 15:04:05") + fmt.Sprintf(" h%02d sshd[%d]: Failed password for invalid user %s from %s port %d ssh2", g.IntN(9), g.IntN(40000), g.pick("root", "admin", "test9"), g.ip(), g.IntN(65536))
	case 2:
		return at.Format("06/01/02 15:04:05") + fmt.Sprintf(" INFO dfs.DataNode$PacketResponder: Received block blk_%d of size %d from /%s", g.Int64(), g.IntN(1<<26), g.ip())
	case 3:
		return at.Format("060102 150405") + fmt.Sprintf(" %d INFO: done", g.IntN(100))
	case 4:
		return at.Format("2006-01-02 15:04:05,000") + " WARN [LeaseRenewer:x@y-41:5080] Address change detected. Old: a/" + g.ip() + ":9000"
	case 5:
		return fmt.Sprintf(`{"ts":"%s","level":"%s","method":"%s","path":"/v1/orders/%d","status":%d,"msg":"결제 승인 실패: 한도 초과 주문번호=ORD-%010d 금액=%d원"}`, at.Format("2006-01-02T15:04:05.000000Z"), g.pick("INFO", "ERROR"), g.pick("GET", "POST", "PUT"), g.IntN(50), 200+g.IntN(4)*100, g.Int64N(1e10), g.IntN(1e6))
	case 6:
		return at.Format("02/Jan/2006:15:04:05 -0700") + " \"GET / HTTP/1.1\" " + g.pick("200", "404")
	case 7:
		return "id=" + g.uuid() + " trace=" + fmt.Sprintf("%016x", g.Uint64()) + " ok"
	case 8:
		return "[" + at.Format("Mon Jan _2 15:04:05 2006") + "] [error] child 7 in error state " + g.pick("6", "7")
	case 9:
		return at.Format("01-02 15:04:05.000") + fmt.Sprintf(" %d %d D WindowManager: x=%d", g.IntN(9000), g.IntN(9000), g.IntN(100)-50)
	case 10:
		return fmt.Sprintf("%d %s RAS KERNEL INFO %s generating core.%d", at.Unix(), at.Format("2006.01.02"), at.Format("2006-01-02-15.04.05.000000"), g.IntN(5000))
	case 11:
		return strings.Repeat(g.pick("a", "b1 ", "가 ", "x.y "), g.IntN(5))
	case 12:
		b := make([]byte, g.IntN(12))
		for i := range b {
			b[i] = byte(g.Uint32())
		}
		return string(b)
	case 13:
		return g.pick("", " ", "0", "00", "007", "deadbeef", "DEADBEEF12", "0x1f", "1.2.3.4.5", "256.1.1.1", "12:34:56", "24:00:00", "99:99:99", "2026-02-30T00:00:00Z", "Feb 30 01:02:03", "é5", "5é", "시간5", "5시간", "응답시간", "응답 시간", "\x01\x04a-0-", "한", "각", "\u212aemi ok", "kemi \u0130d", "\u212aEMI \x01")
	case 14:
		return g.pick("tick", "tock", "bell") + " " + g.pick("one", "two", "three", "four", "five") + " " + g.pick("red", "green", "blue", "white") + " went on"
	case 15:
		return "seq " + fmt.Sprintf("%04d", g.n) + " of " + fmt.Sprint(g.n)
	case 16:
		return "mail from " + g.pick("Müller", "Жук", "naïve7") + " size=" + fmt.Sprint(g.IntN(100))
	case 17:
		return "took " + fmt.Sprint(g.IntN(20)) + "ms, " + fmt.Sprint(g.IntN(20)) + "MS " + g.pick("A1", "a1", "B2")
	case 18:
		return "==> " + g.ip() + " --- " + g.pick("a-b", "c--d") + " ::"
	case 19:
		return "free " + fmt.Sprintf("%x %x", g.Uint64(), g.Uint32()) + " text " + strings.ToUpper(fmt.Sprintf("%016x", g.Uint64()))
	}
	words := make([]string, g.IntN(6))
	for i := range words {
		words[i] = g.pick("connection", "reset", "by", "peer", "timeout", "Upstream", "결제", "승인", "실패", "slow", "query", "took", "shard")
	}
	return strings.Join(words, g.pick(" ", " ", ", ", "="))
}

func (g *lines) record() kemi.LogRecord {
	g.n++
	g.at += kemi.Nanos(g.Int64N(int64(3*time.Second))) / 1e3 * 1e3
	r := kemi.LogRecord{
		ID: fmt.Sprintf("0-%011x-%05x", g.n/50, g.n%50), Project: "p", At: g.at, Severity: kemi.Severity(g.IntN(25)), Stream: g.streams[g.IntN(len(g.streams))], Body: g.body(),
	}
	if g.IntN(10) == 0 {
		r.At -= kemi.Nanos(g.Int64N(int64(time.Minute)))
	}
	if g.IntN(3) == 0 {
		r.TraceID, r.SpanID = fmt.Sprintf("%032x", g.Uint64()|1), fmt.Sprintf("%016x", g.Uint64()|1)
	}
	if g.IntN(3) == 0 {
		r.Attrs = kemi.LabelsOf("status", g.pick("200", "404", "500", "x"), "msg", g.body(), "service", g.pick("pay", "audit"), "n", fmt.Sprint(g.IntN(1000)))
	}
	return r
}

func (g *lines) records(n int) []kemi.LogRecord {
	rs := make([]kemi.LogRecord, n)
	for i := range rs {
		rs[i] = g.record()
	}
	return rs
}

func encoded(t testing.TB, rs []kemi.LogRecord) *Block {
	t.Helper()
	data, m, err := Encode(rs)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(data, m, NewTemplates())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func all(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func text(r *kemi.LogRecord) string {
	return fmt.Sprintf("%s|%s|%d|%d|%v|%v|%q|%s|%s", r.ID, r.Project, r.At, r.Severity, r.Stream, r.Attrs, r.Body, r.TraceID, r.SpanID)
}

func checkSame(t testing.TB, rs []kemi.LogRecord) {
	t.Helper()
	b := encoded(t, rs)
	var got, want []string
	if err := b.Records(all(len(rs)), func(_ int, r *kemi.LogRecord) bool { got = append(got, text(r)); return true }); err != nil {
		t.Fatal(err)
	}
	for i := range rs {
		want = append(want, text(&rs[i]))
	}
	slices.Sort(got)
	slices.Sort(want)
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("record %d of %d (%d):\n got %s\nwant %s", i, len(want), len(got), got[min(i, len(got)-1)], want[i])
		}
	}
}

func TestLossless(t *testing.T) {
	for seed := range uint64(60) {
		g := newLines(seed)
		checkSame(t, g.records(1+g.IntN(3000)))
	}
}

func TestIDs(t *testing.T) {
	g := newLines(5)
	for name, id := range map[string]func(i int) string{
		"of batches": func(i int) string { return fmt.Sprintf("b%d~%05x", i/7, i%7) },
		"any":        func(i int) string { return fmt.Sprintf("x%d", i*7919%1000) },
		"mixed":      func(i int) string { return []string{fmt.Sprintf("1-%011x-%05x", i, 0), fmt.Sprintf("q~%05x", i)}[i%2] },
		"large":      func(i int) string { return fmt.Sprintf("2-%011x-%05x", i, 0xfffff+i) },
	} {
		t.Run(name, func(t *testing.T) {
			rs := g.records(500)
			for i := range rs {
				rs[i].ID = id(i)
			}
			checkSame(t, rs)
		})
	}
}

func (g *lines) expr(depth int, rs []kemi.LogRecord) store.LogExpr {
	if depth > 0 && g.IntN(3) == 0 {
		switch g.IntN(3) {
		case 0:
			return store.LogAnd{g.expr(depth-1, rs), g.expr(depth-1, rs)}
		case 1:
			return store.LogOr{g.expr(depth-1, rs), g.expr(depth-1, rs)}
		}
		return store.LogNot{X: g.expr(depth-1, rs)}
	}
	field := g.pick("", "", "", "", "", "", "level", "host", "service", "status", "msg", "n", "trace_id", "span_id", "id", "nope")
	r := &rs[g.IntN(len(rs))]
	value, _ := store.FieldOf(r, field)
	if field == "" && g.IntN(10) == 0 {
		value = g.body()
	}
	part := func() string { // a piece of the value
		from := g.IntN(len(value) + 1)
		to := from + g.IntN(min(len(value)-from, 30)+1)
		return value[from:to]
	}
	words := strings.FieldsFunc(value, func(r rune) bool { return r < 128 && charKind[byte(r)] == 0 })
	switch g.IntN(12) {
	case 0, 1, 2, 3:
		if len(words) > 0 {
			return store.LogPhrase{Field: field, Text: g.pick(words...)}
		}
	case 4, 5:
		return store.LogPhrase{Field: field, Text: part()}
	case 6:
		return store.LogPrefix{Field: field, Prefix: part()}
	case 7:
		if len(words) > 0 {
			w := g.pick(words...)
			return store.LogPrefix{Field: field, Prefix: strings.ToValidUTF8(w[:1+g.IntN(len(w))], "")}
		}
	case 8:
		src := regexp.QuoteMeta(strings.ToValidUTF8(part(), "."))
		if g.IntN(2) == 0 {
			return store.LogRegexp{Field: field, Source: src, Re: regexp.MustCompile(src)}
		}
		src = g.pick("", "(?i)", "^", ".*") + src + g.pick("", "", "[0-9]+", "$", "x*")
		return store.LogRegexp{Field: field, Source: src, Re: regexp.MustCompile(src)}
	case 9:
		if w, err := store.Wildcard(field, "*"+strings.NewReplacer("*", "", "?", "", `\`, "").Replace(strings.ToValidUTF8(part(), ""))+g.pick("*", "?", "")); err == nil {
			return w
		}
	case 10:
		lo, hi := g.pick("1", "200", "error", "b"), g.pick("404", "900", "fatal", "p")
		return store.LogRange{Field: field, Min: &lo, Max: &hi, MinOpen: g.IntN(2) == 0}
	}
	return store.LogExists{Field: field}
}

func TestSelect(t *testing.T) {
	questions := 0
	for seed := range uint64(25) {
		g := newLines(100 + seed)
		rs := g.records(1 + g.IntN(1500))
		b := encoded(t, rs)
		back := make([]kemi.LogRecord, len(rs))
		if err := b.Records(all(len(rs)), func(i int, r *kemi.LogRecord) bool { back[i] = *r; return true }); err != nil {
			t.Fatal(err)
		}
		for range 400 {
			e := g.expr(3, rs)
			r := store.NanoRange{From: b.From, To: b.To + 1}
			if g.IntN(3) == 0 {
				r.From += kemi.Nanos(g.Int64N(int64(b.To-b.From) + 1))
			}
			if g.IntN(3) == 0 {
				r.To -= kemi.Nanos(g.Int64N(int64(b.To-b.From) + 1))
			}
			match := store.CompileLog(e)
			var want []int
			for i := range back {
				if back[i].At >= r.From && back[i].At < r.To && match(&back[i]) {
					want = append(want, i)
				}
			}
			s, err := NewQuery(e, r).Select(b)
			if err != nil {
				t.Fatal(err)
			}
			if s.Len() != len(want) {
				var got []int
				_ = s.Times(func(row int, _ kemi.Nanos) bool { got = append(got, row); return true })
				for _, i := range append(got, want...) {
					if slices.Contains(got, i) != slices.Contains(want, i) {
						t.Fatalf("seed %d, %s (%#v): %d records, want %d; the first that differs (found %v): %s", seed, e, e, s.Len(), len(want), slices.Contains(got, i), text(&back[i]))
					}
				}
				t.Fatalf("seed %d, %s: %d records, want %d, but the same rows", seed, e, s.Len(), len(want))
			}
			var got []int
			if err := s.Times(func(row int, at kemi.Nanos) bool {
				if at != back[row].At {
					t.Fatalf("time of row %d: %d, want %d", row, at, back[row].At)
				}
				got = append(got, row)
				return true
			}); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%s: rows %v, %v; want %v", e, got, err, want)
			}
			if len(want) > 0 && len(want) < len(rs) {
				questions++
			}
			checkCounts(t, g, s, back, want)
			s.Close()
		}
	}
	if questions < 2000 {
		t.Errorf("only %d questions had some records as their answer", questions)
	}
}

func checkCounts(t *testing.T, g *lines, s *Selection, back []kemi.LogRecord, want []int) {
	t.Helper()
	by := [][]string{{"host"}, {"service", "level"}, {"status"}, {"trace_id"}, {"n", "host"}, {"msg"}, {""}, {"id"}, {}}[g.IntN(9)]
	counts := map[string]int64{}
	for _, i := range want {
		var vs []string
		for _, f := range by {
			v, _ := store.FieldOf(&back[i], f)
			vs = append(vs, v)
		}
		counts[fmt.Sprintf("%q", vs)]++
	}
	if err := s.CountBy(by, func(vs []string, n int64) { counts[fmt.Sprintf("%q", append([]string(nil), vs...))] -= n }); err != nil {
		t.Fatal(err)
	}
	step := []kemi.Millis{1000, 60000, 7000, 1}[g.IntN(4)]
	for _, i := range want {
		at := back[i].At.Millis()
		counts[fmt.Sprint(at-at%step, back[i].Severity)]++
	}
	if err := s.Histogram(step, func(at kemi.Millis, sev kemi.Severity, n int64) { counts[fmt.Sprint(at, sev)] -= n }); err != nil {
		t.Fatal(err)
	}
	for k, n := range counts {
		if n != 0 {
			t.Fatalf("by %v, step %d: %s is %d off", by, step, k, n)
		}
	}
	seen := map[string]bool{}
	for _, i := range want {
		if back[i].Severity.String() != "" {
			seen["level"] = true
		}
		for _, l := range append(slices.Clone(back[i].Stream), back[i].Attrs...) {
			seen[l.Name] = true
		}
	}
	names, err := s.Fields()
	if err != nil || len(names) != len(seen) {
		t.Fatalf("fields %q, %v; want %v", names, err, seen)
	}
}

// corpus are the lines of logbench's raw corpus, if KEMI_TEST_LOGS names its folder, else made ones.
func corpus(b *testing.B, limit int) []kemi.LogRecord {
	dir := os.Getenv("KEMI_TEST_LOGS")
	if dir == "" {
		g := newLines(1)
		rs := g.records(40000)
		return rs
	}
	files, _ := filepath.Glob(filepath.Join(dir, "zone*.bodies"))
	var rs []kemi.LogRecord
	at := kemi.NanosOf(time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC))
	size := 0
	for z, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		raw = raw[:min(len(raw), limit/len(files))]
		for _, l := range strings.Split(string(raw), "\n") {
			at += 14e6 / 1e6 * 1e6
			rs = append(rs, kemi.LogRecord{ID: fmt.Sprintf("0-%011x-%05x", len(rs)/6000, len(rs)%6000), Project: "p", At: at, Stream: kemi.LabelsOf("zone", fmt.Sprint(z)), Body: l})
			size += len(l)
		}
	}
	return rs
}

func BenchmarkEncode(b *testing.B) {
	rs := corpus(b, 8<<20)
	if len(rs) > MaxRecords {
		rs = rs[:MaxRecords]
	}
	raw, packed := 0, 0
	for i := range rs {
		raw += len(rs[i].Body)
	}
	b.SetBytes(int64(raw))
	began := processorTime()
	for b.Loop() {
		data, _, err := Encode(rs)
		if err != nil {
			b.Fatal(err)
		}
		packed = len(data)
	}
	b.ReportMetric((processorTime()-began).Seconds()*1e3/float64(b.N)/float64(raw)*1e6, "cpu-ms/MB")
	b.ReportMetric(float64(raw)/float64(packed), "ratio")
}

// processorTime is what this process has taken, whatever else the machine does.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestManyTemplates codes text that defeats templates, and text of which many templates can be joined: more of them than are tried.
func TestManyTemplates(t *testing.T) {
	for name, line := range map[string]func(g *lines, word func() string) string{
		"free text": func(g *lines, word func() string) string {
			return word() + " " + strings.Repeat(word()+" ", g.IntN(3)) + word() + ", " + word() + " " + word()
		},
		"names": func(_ *lines, word func() string) string {
			return "user " + word() + " has logged in from the web and is welcome"
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newLines(9)
			word := func() string {
				b := make([]byte, 3+g.IntN(6))
				for i := range b {
					b[i] = 'a' + byte(g.IntN(26))
				}
				return string(b)
			}
			rs := g.records(6000)
			for i := range rs {
				rs[i].Body = line(g, word)
			}
			checkSame(t, rs)
			b := encoded(t, rs)
			d, err := b.open()
			if err != nil {
				t.Fatal(err)
			}
			if len(d.templates) > 10 {
				t.Errorf("%d templates", len(d.templates))
			}
			words := strings.Fields(strings.ReplaceAll(rs[4321].Body, ",", ""))
			for _, e := range []store.LogExpr{store.LogPhrase{Text: words[1]}, store.LogPhrase{Text: strings.Join(words[:3], " ")}, store.LogPhrase{Text: "nosuchword"}} {
				want := 0
				for i := range rs {
					if e.Match(&rs[i]) {
						want++
					}
				}
				s, err := NewQuery(e, store.NanoRange{From: b.From, To: b.To + 1}).Select(b)
				if err != nil || s.Len() != want {
					t.Errorf("%s: %d, %v, want %d", e, s.Len(), err, want)
				}
				s.Close()
			}
		})
	}
}
