package logs_test

import (
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/logs"
)

func phrase(field, s string) store.LogExpr { return store.LogPhrase{Field: field, Text: s} }
func prefix(field, s string) store.LogExpr { return store.LogPrefix{Field: field, Prefix: s} }
func exists(field string) store.LogExpr    { return store.LogExists{Field: field} }
func not(x store.LogExpr) store.LogExpr    { return store.LogNot{X: x} }
func ptr(s string) *string                 { return &s }
func re(field, s string) store.LogExpr {
	return store.LogRegexp{Field: field, Source: s, Re: regexp.MustCompile(s)}
}
func wild(field, s string) store.LogExpr {
	e, err := store.Wildcard(field, s)
	if err != nil {
		panic(err)
	}
	return e
}

func TestParse(t *testing.T) {
	a, b, c := phrase("", "a"), phrase("", "b"), phrase("", "c")
	for query, want := range map[string]store.LogExpr{
		"": store.LogAnd{}, "  ": store.LogAnd{}, "*": store.LogAnd{}, "-*": not(store.LogAnd{}), "body:*": store.LogAnd{}, "_exists_:_msg": store.LogAnd{},
		"error":               phrase("", "error"),
		"결제 실패":               store.LogAnd{phrase("", "결제"), phrase("", "실패")},
		`"connection  reset"`: phrase("", "connection  reset"),
		`"say \"hi\" \\ \n"`:  phrase("", `say "hi" \ n`),
		"a b":                 store.LogAnd{a, b},
		"a AND b && c":        store.LogAnd{a, b, c},
		"a OR b || c":         store.LogOr{a, b, c},
		"a b OR c":            store.LogOr{store.LogAnd{a, b}, c},
		"a (b OR c)":          store.LogAnd{a, store.LogOr{b, c}},
		"((a))":               a,
		"a(b)c":               store.LogAnd{a, b, c},
		"NOT a":               not(a),
		"-a !b +c":            store.LogAnd{not(a), not(b), c},
		"a AND NOT b":         store.LogAnd{a, not(b)},
		"--a":                 not(not(a)),
		"-(a b)":              not(store.LogAnd{a, b}),
		"and or not":          store.LogAnd{phrase("", "and"), phrase("", "or"), phrase("", "not")},
		"service:pay":         phrase("service", "pay"),
		"service: pay":        phrase("service", "pay"),
		`user:"김 철수"`:         phrase("user", "김 철수"),
		"body:x _msg:y":       store.LogAnd{phrase("", "x"), phrase("", "y")},
		"-path:/health":       not(phrase("path", "/health")),
		"path:/a/b path:/c":   store.LogAnd{phrase("path", "/a/b"), phrase("path", "/c")},
		"n:-5":                phrase("n", "-5"),
		"status:(500 OR 503)": store.LogOr{phrase("status", "500"), phrase("status", "503")},
		"f:(a g:b -c)":        store.LogAnd{phrase("f", "a"), phrase("g", "b"), not(phrase("f", "c"))},
		`k8s.pod\:x:y`:        phrase("k8s.pod:x", "y"),
		"10.0.0.1:8080":       phrase("", "10.0.0.1:8080"),
		"12:30:00":            phrase("", "12:30:00"),
		"http://x/y?":         wild("", "http://x/y?"),
		"http://x/y":          phrase("", "http://x/y"),
		"at:12:30":            phrase("at", "12:30"),
		"pay*":                prefix("", "pay"),
		"service:pay*":        prefix("service", "pay"),
		`pay\**`:              prefix("", "pay*"),
		"p?y":                 wild("", "p?y"),
		"*set":                wild("", "*set"),
		`f:c*n\ x`:            wild("f", `c*n\ x`),
		`a\*b`:                phrase("", "a*b"),
		"user:*":              exists("user"),
		"_exists_:user":       exists("user"),
		`_exists_:"a b"`:      exists("a b"),
		`/took \d+ms/`:        re("", `took \d+ms`),
		`path:/^\/v1\//`:      re("path", `^/v1/`),
		`/a/ /b/`:             store.LogAnd{re("", "a"), re("", "b")},
		"status:>=500":        store.LogRange{Field: "status", Min: ptr("500")},
		"status:>500":         store.LogRange{Field: "status", Min: ptr("500"), MinOpen: true},
		"status:<= 5":         store.LogRange{Field: "status", Max: ptr("5")},
		`status:<"a b"`:       store.LogRange{Field: "status", Max: ptr("a b"), MaxOpen: true},
		"level:>=warn":        store.LogRange{Field: "level", Min: ptr("warn")},
		"status:[500 TO 599]": store.LogRange{Field: "status", Min: ptr("500"), Max: ptr("599")},
		"status:{1 TO 5]":     store.LogRange{Field: "status", Min: ptr("1"), Max: ptr("5"), MinOpen: true},
		"status:[1 TO 5}":     store.LogRange{Field: "status", Min: ptr("1"), Max: ptr("5"), MaxOpen: true},
		"status:{* TO -1.5}":  store.LogRange{Field: "status", Max: ptr("-1.5"), MaxOpen: true},
		`status:["*" TO *]`:   store.LogRange{Field: "status", Min: ptr("*")},
		"status:[* TO *]":     store.LogRange{Field: "status"},
		">=5":                 phrase("", ">=5"),
		"[error]":             phrase("", "[error]"),
		"==>":                 phrase("", "==>"),
		"a^2 \"b\"^1.5 (c)^3": store.LogAnd{a, b, c},
		"x^y ~/home a~b":      store.LogAnd{phrase("", "x^y"), phrase("", "~/home"), phrase("", "a~b")},
		`\AND \(x\) \"`:       store.LogAnd{phrase("", "AND"), phrase("", "(x)"), phrase("", `"`)},
		"\u3000a\u00a0b":      store.LogAnd{a, b},
		"service:pay level:error \"connection reset\" -path:/health": store.LogAnd{phrase("service", "pay"), phrase("level", "error"), phrase("", "connection reset"), not(phrase("path", "/health"))},
	} {
		got, err := logs.Parse(query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if !same(got, want) {
			t.Errorf("%s: got %#v, want %#v", query, got, want)
		}
		again, err := logs.Parse(got.String())
		if err != nil || !same(again, got) {
			t.Errorf("%s: written as %s, which gives %#v (%v), not %#v", query, got, again, err, got)
		}
	}
}

// same compares conditions; compiled expressions by their text.
func same(a, b store.LogExpr) bool { return reflect.DeepEqual(bare(a), bare(b)) }

func bare(e store.LogExpr) any {
	switch e := e.(type) {
	case store.LogAnd:
		out := []any{"and"}
		for _, x := range e {
			out = append(out, bare(x))
		}
		return out
	case store.LogOr:
		out := []any{"or"}
		for _, x := range e {
			out = append(out, bare(x))
		}
		return out
	case store.LogNot:
		return []any{"not", bare(e.X)}
	case store.LogRegexp:
		return []string{e.Field, e.Source, e.Re.String()}
	}
	return e
}

func TestParseErrors(t *testing.T) {
	for query, want := range map[string]string{
		"AND b":                     `position 1: expected a condition, got "AND b"`,
		"a AND":                     `position 6: expected a condition after the AND at position 3, got the end`,
		"a OR":                      `position 5: expected a condition after the OR at position 3, got the end`,
		"a OR OR b":                 `position 6: expected a condition, got "OR b"`,
		"a AND OR b":                `position 7: expected a condition, got "OR b"`,
		"(a OR )":                   `position 7: expected a condition after the OR at position 4, got ")"`,
		"결제 (a b":                   `position 8: expected ')' to close the '(' at position 4, got the end`,
		"a ) b":                     `position 3: expected the end: no '(' is open here, got ") b"`,
		"()":                        `position 2: expected a condition, got ")"`,
		`"abc`:                      `position 5: expected '"' to end the phrase that begins at position 1, got the end`,
		"f:":                        `position 3: expected a value for the field at position 1, got the end`,
		"(f:)":                      `position 4: expected a value for the field at position 2, got ")"`,
		"a -":                       `position 4: expected a condition after the - at position 3, got the end`,
		"a - b":                     `position 4: expected a condition after the - at position 3, got " b"`,
		"NOT":                       `position 4: expected a condition after the NOT at position 1, got the end`,
		"-AND b":                    `position 2: expected a condition after the - at position 1, got "AND b"`,
		"f:[1 5]":                   `position 6: expected TO, as in [1 TO 5], got "5]"`,
		"f:[1 TO 5":                 `position 10: expected ']' or '}' to end the range that begins at position 3, got the end`,
		"f:[ TO 5]":                 `position 8: expected TO, as in [1 TO 5], got "5]"`,
		"f:>":                       `position 4: expected a value to compare with, got the end`,
		"/a(b/":                     "position 1: expected a regular expression: missing closing ): `a(b`",
		"roam~2":                    `position 5: expected the end of the term (nearness and fuzzy search, ~, are not known), got "~2"`,
		`"a b"~3`:                   `position 6: expected the end of the term (nearness and fuzzy search, ~, are not known), got "~3"`,
		`"a"b`:                      `position 4: expected a space, got "b"`,
		"_exists_:":                 `position 10: expected the name of a field after _exists_:, got the end`,
		strings.Repeat("(", 200):    "at most 100 parentheses",
		strings.Repeat("-", 200):    "at most 100 of NOT",
		strings.Repeat("a ", 5000):  "at most 4096 conditions",
		strings.Repeat("a", 70_000): "70000 bytes",
	} {
		e, err := logs.Parse(query)
		if err == nil {
			t.Errorf("%.40s gives %#v", query, e)
			continue
		}
		if kind := kemi.HTTPStatus(err); kind != 400 && kind != 413 || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v; want %s", query, err, want)
		}
		if !errors.Is(err, kemi.ErrInvalid) && !errors.Is(err, kemi.ErrTooLarge) {
			t.Errorf("%.40s: no kind: %v", query, err)
		}
	}
}

func TestParseWarns(t *testing.T) {
	_, warnings, err := logs.ParseWarn("가^2 b")
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "position 2: the boost ^2 was ignored") {
		t.Errorf("%v %v", warnings, err)
	}
}

// FuzzParse: nothing panics, and what is read can be written and read again.
func FuzzParse(f *testing.F) {
	for _, q := range []string{
		`service:pay level:error "connection reset" -path:/health`, "a OR b AND NOT (c d)", `f:[1 TO 5} g:>="x y" _exists_:h i:*`, `/a b\/c/ p:/x/ /health`,
		`pay* w?ld c*d \a\ b "q\"\\"`, "a^2 ~x y~ (b)^3", "결제 실패:값", "10.0.0.1:80 http://a/b", "-(-(*))", "f:(a -b)", "\xff:\xfe*\xfd", `/a*b c/ (d/ e)`, `\/x*y z/`,
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, q string) {
		e, err := logs.Parse(q)
		if err != nil {
			if kemi.HTTPStatus(err) >= 500 {
				t.Fatalf("%q: %v", q, err)
			}
			return
		}
		s := e.String()
		again, err := logs.Parse(s)
		if err != nil {
			t.Fatalf("%q is written as %q, which is not read: %v", q, s, err)
		}
		if !same(e, again) {
			t.Fatalf("%q is written as %q, which gives %#v, not %#v", q, s, bare(again), bare(e))
		}
		e.Match(&kemi.LogRecord{Body: q})
	})
}
