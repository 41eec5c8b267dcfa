package tsdexp

import (
	"errors"
	"math"
	"strings"
	"testing"

	"kemi"
)

func TestEval(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		expr string
		a, b float64
		want float64
	}{
		{"a + b * 2", 1, 3, 7}, {"(a + b) * 2", 1, 3, 8}, {"a - b - 1", 9, 3, 5}, {"-a + b", 1, 3, 2}, {"a / b", 1, 4, 0.25}, {"a div b", 1, 4, 0.25},
		{"a % 2", 5, 0, 1}, {"a mod 2", 5, 0, 1}, {"a / b", 1, 0, 0}, {"a % b", 1, 0, 0}, {"a + 1/2", 1, 0, 1}, {"a + 1/2.0", 1, 0, 1.5}, {"a * 1/2", 1, 0, 0.5},
		{"a > b", 2, 1, 1}, {"a > b", 1, 2, 0}, {"a > b", 1, nan, 1}, {"a < b", nan, -1e308, 1}, {"a == b", 2, 2, 1}, {"a != b", 2, 2, 0}, {"a eq b", 2, 2, 1}, {"a ge b", 2, 2, 1},
		{"a && b", 1, 0, 0}, {"a || b", 0, 3, 1}, {"a and b", nan, 1, 0}, {"!a", 0, 0, 1}, {"not a", 2, 0, 0}, {"a ? b : 5", 1, 7, 7}, {"a ? b : 5", 0, 7, 5},
		{"a >= 2 && b < 5 || a == 0", 0, 9, 1}, {"1.5e3 + a", 1, 0, 1501}, {"a + 2 > 2", 1, 0, 1}, {"(a > 0) + (b > 0)", 1, 1, 2},
	} {
		e, err := Parse(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		values := map[string]float64{"a": c.a, "b": c.b}
		var in []float64
		for _, v := range e.Variables() {
			in = append(in, values[v])
		}
		if got := e.Eval(in); got != c.want {
			t.Errorf("%s with a=%v b=%v: %v, want %v", c.expr, c.a, c.b, got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", "a +", "a b", "a ** 2", "(a", "a)", "sqrt(a)", "a = 5", "a ? b", "a.b", "1 2", "a $$ b +", "\xff\xfe +", strings.Repeat("(", 200) + "a", strings.Repeat("-", 5000) + "a",
		strings.Repeat("a+", 3000) + "a", "1e", "a & b",
	} {
		if _, err := Parse(s); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("%.40q: %v", s, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a + b", "a ? b : 1", "!(a >= 2 && b < 5)", "-a div 2.5e3", "((", "a and not b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			if !errors.Is(err, kemi.ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		e.Eval(make([]float64, len(e.Variables())))
	})
}

func FuzzParseCall(f *testing.F) {
	for _, s := range []string{"scale(sum:a,2)", "alias(scale(sum:a{host=*},2),x.@host)", "sum(sum:rate{counter,,10}:5m-avg:a{b=literal_or(x|y)},sum:b)", "scale("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var queries []string
		if _, err := ParseCall(s, &queries); err != nil && !errors.Is(err, kemi.ErrInvalid) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
