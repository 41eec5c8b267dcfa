package logql

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/lines"
	"kemi/pipeline/store"
)

// TestStages takes lines through stages: what comes out, and with which labels.
func TestStages(t *testing.T) {
	base := kemi.LabelsOf("app", "pay", "host", "h1", "level", "error")
	for _, c := range []struct{ query, line, want string }{
		{`{app="pay"}`, "x", `x {app="pay", host="h1", level="error"}`},
		{`{a="b"} |= "err"`, "an error", "an error *"},
		{`{a="b"} |= "ERR"`, "an error", ""},
		{`{a="b"} != "err"`, "an error", ""},
		{`{a="b"} |~ "e.r" !~ "^x"`, "an error", "an error *"},
		{`{a="b"} |= "no" or "err"`, "an error", "an error *"},
		{`{a="b"} != "no" or "err"`, "an error", ""},
		{"{a=\"b\"} |> `<_>took <_>ms`", "it took 12ms", "it took 12ms *"},
		{"{a=\"b\"} !> `<_>took <_>ms`", "it took 12ms", ""},
		{`{a="b"} |= ip("10.0.0.0/8")`, "from 10.1.2.3:80 to x", "from 10.1.2.3:80 to x *"},
		{`{a="b"} |= ip("192.168.0.1-192.168.0.9")`, "from 192.168.0.10", ""},
		{`{a="b"} | json`, `{"a":1,"b":{"c":"x"},"host":"h9","l":[1]}`, `{"a":1,"b":{"c":"x"},"host":"h9","l":[1]} {a="1", app="pay", b_c="x", host="h1", host_extracted="h9", level="error"}`},
		{`{a="b"} | json x="b.c[1]", y="a"`, `{"a":1,"b":{"c":["p","q"]}}`, `{"a":1,"b":{"c":["p","q"]}} {app="pay", host="h1", level="error", x="q", y="1"}`},
		{`{a="b"} | json`, `no`, `no {__error__="JSONParserErr", *`},
		{`{a="b"} | json | __error__=""`, `no`, ""},
		{`{a="b"} | logfmt | took > 1s | drop took`, `took=2s q="a b"`, `took=2s q="a b" {app="pay", host="h1", level="error", q="a b"}`},
		{`{a="b"} | logfmt | took > 1s`, `took=1s`, ""},
		{`{a="b"} | logfmt x="took"`, `took=1s y=2`, `took=1s y=2 {app="pay", host="h1", level="error", x="1s"}`},
		{`{a="b"} | logfmt | size >= 10KB and n != 3`, `size=10kb n=4`, `size=10kb n=4 *`},
		{`{a="b"} | logfmt | n > 3`, `n=x`, `n=x {__error__="LabelFilterErr", *`},
		{`{a="b"} | logfmt | n > 3 or m = "1"`, `n=2 m=1`, `n=2 m=1 *`},
		{"{a=\"b\"} | regexp `(?P<m>\\w+) (?P<n>\\d+)`", "GET 200", `GET 200 {app="pay", host="h1", level="error", m="GET", n="200"}`},
		{"{a=\"b\"} | pattern `<ip> - <_> [<t>] <rest>`", "1.2.3.4 - me [now] a b", `1.2.3.4 - me [now] a b {app="pay", host="h1", ip="1.2.3.4", level="error", rest="a b", t="now"}`},
		{`{a="b"} | unpack`, `{"_entry":"the line","k":"v"}`, `the line {app="pay", host="h1", k="v", level="error"}`},
		{`{a="b"} | logfmt | line_format "{{.q | ToUpper}} of {{.app}} {{__line__}}"`, `q=a`, `A of pay q=a {app="pay", host="h1", level="error", q="a"}`},
		{`{a="b"} | label_format x=host, y="{{.app}}!"`, `l`, `l {app="pay", level="error", x="h1", y="pay!"}`},
		{`{a="b"} | keep app`, `l`, `l {app="pay"}`},
		{`{a="b"} | drop app, host="h2"`, `l`, `l {host="h1", level="error"}`},
		{`{a="b"} | decolorize`, "\x1b[31mred\x1b[0m", "red *"},
		{`{a="b"} | level="ERROR"`, "l", "l *"},
		{`{a="b"} | host=~"h[0-9]" | app!="pay"`, "l", ""},
		{`{a="b"} | line_format "{{ div 7 2 }} {{ round 1.256 2 }} {{ default \"-\" .nope }} {{ trunc 2 \"abc\" }}"`, "l", "3 1.26 - ab *"},
	} {
		e, err := Parse(c.query)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		en := &entry{line: c.line, labels: append([]kemi.Label(nil), base...), stream: len(base)}
		got := ""
		if run(en, e.(*LogQuery).Stages) {
			got = en.line + " " + show(en.sorted())
		}
		want, open := strings.CutSuffix(c.want, "*")
		if open && !strings.HasPrefix(got, want) || !open && got != c.want {
			t.Errorf("%s on %q:\n got %s\nwant %s", c.query, c.line, got, c.want)
		}
	}
}

func show(ls kemi.Labels) string {
	var parts []string
	for _, l := range ls {
		parts = append(parts, fmt.Sprintf("%s=%q", l.Name, l.Value))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func TestRefused(t *testing.T) {
	for _, q := range []string{
		"", "{", "{}x", `{a}`, `{a="b"`, `{a=b}`, `{a="b"} |`, `{a="b"} | nope`, `{a="b"} | json |`, `{a="b"} |~ "("`, `{a=~"("}`, `rate({a="b"})`, `rate({a="b"}[0s])`, `rate({a="b"}[5x])`, `sum({a="b"})`, `sum by host (rate({a="b"}[5m]))`,
		`topk(rate({a="b"}[5m]))`, `sum_over_time({a="b"}[5m])`, `count_over_time({a="b"} | unwrap x [5m])`, `rate({a="b"}[5m]) +`, `{a="b"} + 1`, `quantile_over_time({a="b"} | unwrap x [5m])`, `{a="b"} | line_format "{{"`, `{a="b"} | regexp "x"`, "{a=\"b\"} | pattern `<_>`",
		`{a="b"} |= ip("x")`, `{a="b"} | x > y`, `{a="b"} "`, "{a=`b}", `nope({a="b"}[5m])`, `{a="b"} | x = ip("10.0.0.300")`, `count_over_time({a="b"}[5m]) by (x)`, strings.Repeat("(", 300) + "1",
	} {
		if e, err := Parse(q); err == nil {
			t.Errorf("%q is taken: %#v", q, e)
		} else if _, plain := err.(interface{ Is(error) bool }); !plain && kemi.HTTPStatus(err) != 400 {
			t.Errorf("%q: status %d: %v", q, kemi.HTTPStatus(err), err)
		}
	}
}

// bench is a store with lines of some hosts.
func bench(t testing.TB, n int) (*lines.Store, []kemi.LogRecord) {
	c := lines.DefaultConfig()
	c.Dir, c.MinFreeBytes, c.BufferBytes = t.TempDir(), 0, 64<<10
	s, err := lines.Open(c, lines.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r := rand.New(rand.NewPCG(3, 4))
	var rs []kemi.LogRecord
	at := kemi.Nanos(1_790_000_000e9)
	for i := range n {
		at += kemi.Nanos(r.IntN(2e9))
		if r.IntN(50) == 0 {
			at = (at/60e9 + 1) * 60e9 // on a whole minute
		}
		rs = append(rs, kemi.LogRecord{
			ID: fmt.Sprintf("0-%011x-%05x", i/100, i%100), Project: "p", At: at, Severity: []kemi.Severity{kemi.SeverityInfo, kemi.SeverityError}[r.IntN(2)],
			Stream: kemi.LabelsOf("app", []string{"pay", "order"}[r.IntN(2)], "host", fmt.Sprint("h", r.IntN(3))), Attrs: kemi.LabelsOf("shard", fmt.Sprint(r.IntN(2))),
			Body: fmt.Sprintf("level=x took=%dms size=%d status=%d user=u%d", r.IntN(900), r.IntN(1e5), []int{200, 500}[r.IntN(2)], r.IntN(100)),
		})
	}
	for i := 0; i < len(rs); i += 100 {
		if err := s.Index(context.Background(), rs[i:min(i+100, len(rs))], store.Position{Next: int64(i/100 + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	return s, rs
}

var who = kemi.Identity{Subject: "t", Project: "p", Permissions: kemi.AllPermissions}

func text(in []Series) string {
	var b strings.Builder
	for _, s := range in {
		fmt.Fprintf(&b, "%s:", show(s.Labels))
		for i, v := range s.Values {
			if s.Present[i] {
				fmt.Fprintf(&b, " %d=%.6g", i, v)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestCounted: what the store counts is what looking at each line gives.
func TestCounted(t *testing.T) {
	s, rs := bench(t, 3000)
	e := NewEngine(s, DefaultLimits())
	first, last := rs[0].At, rs[len(rs)-1].At
	some := 0
	for _, q := range []string{
		`count_over_time({app="pay"} %s [%s])`, `rate({app=~".+"} %s |= "status=500" [%s])`, `sum(count_over_time({app=~".+"} %s [%s]))`, `sum by (host) (rate({app="pay"} | level="error" %s [%s]))`,
		`sum by (level, shard) (count_over_time({host!="h0"} %s != "user=u7" [%s]))`, `topk(2, sum by (host) (count_over_time({app!~"o.*"} %s [%s])))`, `avg by (app) (count_over_time({app=~".+"} %s [%s]))`, `sum without (host, shard, level) (rate({app=~".+"} %s [%s]))`,
	} {
		for _, c := range []struct {
			span string
			step time.Duration
			off  kemi.Nanos
		}{{"1m", time.Minute, 0}, {"5m", time.Minute, 0}, {"90s", time.Minute, 7}, {"7m", 13 * time.Minute, 1}, {"3m", 3 * time.Minute, 0}} {
			start := (first/60e9+2)*60e9 + c.off
			var got [2]string
			for i, slow := range []string{"", `| line_format "{{__line__}}"`} {
				x, err := Parse(fmt.Sprintf(q, slow, c.span))
				if err != nil {
					t.Fatal(err)
				}
				var st Stats
				in, err := e.Range(context.Background(), who, x, start, last, c.step, &st)
				if err != nil {
					t.Fatal(err)
				}
				if (st.Lines == 0) != (i == 0) {
					t.Errorf("%s looked at %d lines", q, st.Lines)
				}
				got[i] = text(in)
			}
			if got[0] != got[1] {
				t.Fatalf("%s over %s every %s: counted\n%.600s\nline by line\n%.600s", q, c.span, c.step, got[0], got[1])
			}
			some += len(got[0])
		}
	}
	if some < 10_000 {
		t.Errorf("the answers are only %d bytes long", some)
	}
}

// TestNumbers computes what can be computed by hand.
func TestNumbers(t *testing.T) {
	s, rs := bench(t, 1000)
	e := NewEngine(s, DefaultLimits())
	end := rs[len(rs)-1].At
	span := time.Duration(end - rs[0].At + 1)
	var took []float64
	sum, errors, bytes := 0.0, 0, 0
	for _, r := range rs {
		var n, size, status, user int
		if _, err := fmt.Sscanf(r.Body, "level=x took=%dms size=%d status=%d user=u%d", &n, &size, &status, &user); err != nil {
			t.Fatal(err)
		}
		took = append(took, float64(n)/1000)
		sum += float64(size)
		bytes += len(r.Body)
		if status == 500 {
			errors++
		}
	}
	seconds := span.Truncate(time.Millisecond).Seconds()
	r := fmt.Sprintf("[%dms]", int64(span/time.Millisecond)+1)
	for q, want := range map[string]float64{
		`sum(sum_over_time({app=~".+"} | logfmt | unwrap size ` + r + `))`:                           sum,
		`max(quantile_over_time(0.5, {app=~".+"} | logfmt | unwrap duration(took) ` + r + `) by ())`: quantile(0.5, took),
		`sum(count_over_time({app=~".+"} | logfmt | status >= 500 ` + r + `))`:                       float64(errors),
		`sum(bytes_over_time({app=~".+"} ` + r + `))`:                                                float64(bytes),
		`sum(count_over_time({app=~".+"} ` + r + `)) / 4`:                                            250,
		`2 * (3 + 4) ^ 2 - 1`: 97,
		`count(count_over_time({app=~".+"} | drop shard, level ` + r + `))`:                                      6,
		`sum(count_over_time({app="pay"} ` + r + `)) + sum(count_over_time({app="order"} ` + r + `))`:            1000,
		`sum(count_over_time({app="pay"} ` + r + `) or count_over_time({app="order"} ` + r + `))`:                1000,
		`count(count_over_time({app="pay"} ` + r + `) unless count_over_time({app="order"} ` + r + `)) - 12`:     0,
		`absent_over_time({app="nope"}[5m])`:                                                                     1,
		`sum(count_over_time({app="pay"}` + r + `) and on(host) count_over_time({host="h1"}` + r + `)) > bool 0`: 1,
		`vector(7)`: 7,
		`sum(label_replace(count_over_time({app="pay"}` + r + `), "x", "$1", "host", "h(.)")) - sum(count_over_time({app="pay"} ` + r + `))`: 0,
	} {
		x, err := Parse(q)
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		var st Stats
		in, err := e.Instant(context.Background(), who, x, end, &st)
		if err != nil || len(in) != 1 || math.Abs(in[0].Values[0]-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s: %v %v, want %v (of %.0f s)", q, text(in), err, want, seconds)
		}
	}
	for q, want := range map[string]string{
		`sum by (x) (count_over_time({app=~".+"} | json ` + r + `))`:                            "JSONParserErr",
		`count_over_time({app="pay"}` + r + `) + on(app) count_over_time({app="pay"}` + r + `)`: "many-to-many",
		`{app="pay"}`: "lines, not numbers",
	} {
		x, err := Parse(q)
		if err != nil {
			t.Fatal(q, err)
		}
		if _, err = e.Instant(context.Background(), who, x, end, &Stats{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", q, err, want)
		}
	}
}

// TestLimits: a query past its limit says which.
func TestLimits(t *testing.T) {
	s, rs := bench(t, 500)
	e := NewEngine(s, Limits{Series: 3, Samples: 100, Lines: 400})
	at := rs[len(rs)-1].At
	for q, want := range map[string]string{
		`sum by (user) (count_over_time({app=~".+"} | logfmt [1h]))`: "maximum of series", `sum(sum_over_time({app=~".+"} | logfmt | keep size | unwrap size [1h]))`: "holds 101 values", `count_over_time({app=~".+"} [1h])`: "maximum of series",
	} {
		x, err := Parse(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Instant(context.Background(), who, x, at, &Stats{}); err == nil || !strings.Contains(err.Error(), want) || kemi.HTTPStatus(err) != 429 && kemi.HTTPStatus(err) != 400 && kemi.HTTPStatus(err) != 422 && kemi.HTTPStatus(err) != 413 {
			t.Errorf("%s: %v, want %s", q, err, want)
		}
	}
	x, err := Parse(`{app=~".+"} | logfmt | user="nobody"`)
	if err != nil {
		t.Fatal(err)
	}
	for _, err = range e.Lines(context.Background(), who, x.(*LogQuery), store.NanoRange{To: at + 1}, 10, false, &Stats{}) {
	}
	if err == nil || !strings.Contains(err.Error(), "looked at 401 lines") {
		t.Errorf("lines: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, q := range []string{`sum by (host) (rate({app="x", host!~"a|b"} |= "x" or "y" | json a="b.c" | logfmt --strict | x > 5m and (y = "1" or z != 10KB) | line_format "{{.x}}" [5m] offset 1m)) > bool 5`, "topk(3, quantile_over_time(0.9, {a=`b`} | unwrap duration(x) | x > 1 [1h]) by (y))", `1 + 2 * -3 ^ 4`} {
		f.Add(q)
	}
	f.Fuzz(func(_ *testing.T, q string) {
		if e, err := Parse(q); err == nil {
			if l, ok := e.(*LogQuery); ok {
				_ = planOf(l)
				en := &entry{line: `{"a":{"b":1}} k=v <x> 10.0.0.1`, labels: kemi.LabelsOf("app", "x")}
				en.stream = 1
				_ = run(en, l.Stages)
			}
		}
	})
}
