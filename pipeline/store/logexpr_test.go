package store_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"

	"kemi"
	"kemi/pipeline/store"
)

func TestTokens(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"Hello, World_1!":           "hello|world_1",
		"pay-service.v2 42":         "pay|service|v2|42",
		"응답시간":                      "응답|답시|시간",
		"응답 시간":                     "응답|시간",
		"API를 호출":                   "api|를|호출",
		"30초":                       "30|초",
		"OOMKilled강제":               "oomkilled|강제",
		"東京タワー":                     "東京|京タ|タワ|ワー",
		"漢字한글":                      "漢字|한글",
		"ÉCOLE Ünder":               "école|ünder",
		"bad\xffbytes\xc3(":         "bad|bytes",
		"\xea\xb0":                  "",
		norm.NFD.String("실패했습니다 é"): "실패|패했|했습|습니|니다|é",
		"हिन्दी":                    "हिन्दी",
		"ㅋㅋㅋ":                       "ㅋㅋ|ㅋㅋ",
		"a가b나다c":                    "a|가|b|나다|c",
	} {
		if got := strings.Join(store.Tokens(in), "|"); got != want {
			t.Errorf("Tokens(%q) = %s, want %s", in, got, want)
		}
	}
}

// korean are lines of which each query below must find exactly those that it names.
var korean = []string{
	"주문 서비스에서 결제 요청 처리에 실패했습니다: 응답코드 500",
	"사용자 인증 토큰이 만료되어 접근이 거부되었습니다",
	"데이터베이스 연결 시간이 초과되었습니다 (30초)",
	"디스크 사용량이 90%를 넘어서 경보를 발송합니다",
	"컨테이너가 메모리 부족으로 강제 종료됨 OOMKilled",
	"로드밸런서 헬스체크 실패로 인해 서버를 제외했습니다",
	"배포 파이프라인이 정상적으로 완료되었습니다",
	"카카오톡 메시지 전송 지연 발생, 재시도합니다",
	"네트워크 지연으로 인해 응답시간이 증가하고 있습니다",
	"DNS 조회에 실패하여 외부 API를 호출할 수 없습니다",
}

func TestKorean(t *testing.T) {
	for query, want := range map[string][]int{
		"실패": {0, 5, 9}, "결제": {0}, "만료": {1}, "초과": {2}, "사용량": {3}, "경보": {3}, "메모리 부족": {4}, "종료": {4}, "지연": {7, 8},
		"응답시간": {8}, "응답 시간": {8}, "시간": {2, 8}, "완료": {6}, "조회": {9}, "서버": {5}, "메시지": {7}, "발생": {7}, "전송": {7},
		"인증": {1}, "응답": {0, 8}, "연결시간": {2}, "연결 시간": {2}, "강제종료": {4}, "시간이초과": {2}, "30초": {2}, "API": {9}, "oomkilled": {4},
		"이인": nil, "간이 증": {8}, "연결시": nil, "메시지 지연": nil,
	} {
		var words store.LogAnd
		for _, w := range strings.Fields(query) {
			words = append(words, store.LogPhrase{Text: w})
		}
		for _, form := range []func(string) string{norm.NFC.String, norm.NFD.String} {
			for name, e := range map[string]store.LogExpr{"phrase": store.LogPhrase{Text: form(query)}, "words": words} {
				var got []int
				for i, line := range korean {
					r := &kemi.LogRecord{Body: form(line)}
					if e.Match(r) != store.CompileLog(e)(r) {
						t.Errorf("%s %q on %q: Match and CompileLog differ", name, query, line)
					}
					if e.Match(r) {
						got = append(got, i)
					}
				}
				if name == "words" && (query == "연결시" || query == "메시지 지연") {
					continue
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s %q finds %v, want %v", name, query, got, want)
				}
			}
		}
	}
}

func ptr(s string) *string { return &s }

func record() *kemi.LogRecord {
	return &kemi.LogRecord{
		ID: "b1-7", Project: "default", At: 1, Severity: kemi.SeverityWarn,
		Stream: kemi.LabelsOf("service", "pay-api", "host", "web01"),
		Attrs:  kemi.LabelsOf("status", "503", "path", "/Health/Check", "user", "김철수", "service", "shadowed", "size", "1e3", "v", "1.10.2"),
		Body:   "GET /health took 12ms: Connection reset by peer ==> retry_3", TraceID: "0af7651916cd43dd8448eb211c80319c",
	}
}

func TestMatch(t *testing.T) {
	re := func(field, s string) store.LogExpr {
		return store.LogRegexp{Field: field, Source: s, Re: regexp.MustCompile(s)}
	}
	wild := func(field, s string) store.LogExpr {
		w, err := store.Wildcard(field, s)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	yes, no := store.LogAnd{}, store.LogOr{}
	for _, c := range []struct {
		e    store.LogExpr
		want bool
		text string
	}{
		{yes, true, `*`}, {no, false, `-*`}, {store.LogNot{X: no}, true, `-(-*)`},
		{store.LogAnd{yes, no}, false, `* -*`}, {store.LogOr{yes, no}, true, `* OR -*`},
		{store.LogPhrase{Text: "connection"}, true, `connection`},
		{store.LogPhrase{Text: "connection reset"}, true, `"connection reset"`},
		{store.LogPhrase{Text: "reset connection"}, false, `"reset connection"`},
		{store.LogPhrase{Text: "connection by"}, false, `"connection by"`},
		{store.LogPhrase{Text: "connect"}, false, `connect`}, {store.LogPhrase{Text: "onnection"}, false, `onnection`},
		{store.LogPhrase{Text: "retry"}, false, `retry`}, {store.LogPhrase{Text: "RETRY_3"}, true, `RETRY_3`},
		{store.LogPhrase{Text: "12ms"}, true, `12ms`}, {store.LogPhrase{Text: "12"}, false, `12`},
		{store.LogPhrase{Text: "==>"}, true, `"==>"`}, {store.LogPhrase{Text: "<=="}, false, `"<=="`}, {store.LogPhrase{Text: ""}, true, `""`},
		{store.LogPhrase{Text: `say "x\"`}, false, `"say \"x\\\""`}, {store.LogPhrase{Text: "OR"}, false, `"OR"`},
		{store.LogPhrase{Field: "service", Text: "PAY-API"}, true, `service:"PAY-API"`},
		{store.LogPhrase{Field: "service", Text: "api"}, true, `service:api`}, {store.LogPhrase{Field: "service", Text: "shadowed"}, false, `service:shadowed`},
		{store.LogPhrase{Field: "path", Text: "/health/check"}, true, `path:"/health/check"`},
		{store.LogPhrase{Field: "user", Text: "철수"}, true, `user:철수`}, {store.LogPhrase{Field: "nope", Text: "x"}, false, `nope:x`},
		{store.LogPhrase{Field: "id", Text: "b1-7"}, true, `id:"b1-7"`},
		{store.LogPhrase{Field: "trace_id", Text: "0AF7651916CD43DD8448EB211C80319C"}, true, `trace_id:0AF7651916CD43DD8448EB211C80319C`},
		{store.LogPhrase{Field: "span_id", Text: ""}, false, `span_id:""`},
		{store.LogPhrase{Field: "level", Text: "warn"}, true, `level:warn`}, {store.LogPhrase{Field: "level", Text: "WARNING"}, true, `level:WARNING`},
		{store.LogPhrase{Field: "level", Text: "error"}, false, `level:error`}, {store.LogPhrase{Field: "level", Text: "silly"}, false, `level:silly`},
		{store.LogPrefix{Prefix: "conn"}, true, `conn*`}, {store.LogPrefix{Prefix: "reset b"}, true, `reset\ b*`},
		{store.LogPrefix{Prefix: "onn"}, false, `onn*`}, {store.LogPrefix{Prefix: "res by"}, false, `res\ by*`}, {store.LogPrefix{Prefix: "CONNECTION"}, true, `CONNECTION*`},
		{store.LogPrefix{Field: "service", Prefix: "pay-"}, true, `service:pay\-*`}, {store.LogPrefix{Field: "service", Prefix: "pay-a"}, true, `service:pay\-a*`},
		{store.LogPrefix{Field: "service", Prefix: "pa-"}, false, `service:pa\-*`}, {store.LogPrefix{Field: "user", Prefix: "김"}, true, `user:김*`},
		{re("", `took \d+ms`), true, `/took \d+ms/`}, {re("", `connection`), false, `/connection/`}, {re("path", `^/H.*k$`), true, `path:/^\/H.*k$/`},
		{re("nope", ``), false, `nope://`}, {store.LogRegexp{Source: `rese.`}, true, `/rese./`}, {store.LogRegexp{Source: `(`}, false, `/(/`},
		{wild("", "con*ion"), true, `con*ion`}, {wild("", "con*on reset"), true, `con*on reset`}, {wild("", "con*set"), false, `con*set`},
		{wild("", "p?er"), true, `p?er`}, {wild("", "*onnectio?"), true, `*onnectio?`}, {wild("", "onnec*"), false, `onnec*`},
		{wild("path", "/h*k"), true, `path:/h*k`}, {wild("service", `pay*`), true, `service:pay*`}, {wild("service", `pay\*`), false, `service:pay\*`},
		{store.LogRange{Field: "status", Min: ptr("500")}, true, `status:>=500`}, {store.LogRange{Field: "status", Min: ptr("503"), MinOpen: true}, false, `status:>503`},
		{store.LogRange{Field: "status", Max: ptr("1000")}, true, `status:<=1000`}, {store.LogRange{Field: "status", Max: ptr("503"), MaxOpen: true}, false, `status:<503`},
		{store.LogRange{Field: "status", Min: ptr("50"), Max: ptr("600"), MinOpen: true}, true, `status:{50 TO 600]`},
		{store.LogRange{Field: "status", Min: ptr("5a")}, false, `status:>=5a`}, {store.LogRange{Field: "status"}, true, `status:[* TO *]`}, {store.LogRange{Field: "nope"}, false, `nope:[* TO *]`},
		{store.LogRange{Field: "size", Min: ptr("999"), Max: ptr("1001"), MaxOpen: true}, true, `size:[999 TO 1001}`},
		{store.LogRange{Field: "v", Min: ptr("1.10.1"), Max: ptr("1.10.3")}, true, `v:[1.10.1 TO 1.10.3]`},
		{store.LogRange{Field: "level", Min: ptr("warn")}, true, `level:>=warn`}, {store.LogRange{Field: "level", Min: ptr("warn"), MinOpen: true}, false, `level:>warn`},
		{store.LogRange{Field: "level", Max: ptr("error"), MaxOpen: true}, true, `level:<error`}, {store.LogRange{Field: "level", Max: ptr("info")}, false, `level:<=info`},
		{store.LogRange{Field: "level", Min: ptr("silly")}, false, `level:>=silly`},
		{store.LogExists{Field: "user"}, true, `user:*`}, {store.LogExists{Field: "nope"}, false, `nope:*`}, {store.LogExists{}, true, `*`}, {store.LogExists{Field: "level"}, true, `level:*`},
		{store.LogAnd{store.LogPhrase{Text: "a"}, store.LogOr{store.LogPhrase{Text: "b"}, store.LogNot{X: store.LogAnd{store.LogPhrase{Field: "x y", Text: "c"}, store.LogExists{Field: "d"}}}}},
			false, `a (b OR -(x\ y:c d:*))`},
	} {
		if got := c.e.Match(record()); got != c.want {
			t.Errorf("%s: Match = %t, want %t", c.text, got, c.want)
		}
		if got := store.CompileLog(c.e)(record()); got != c.want {
			t.Errorf("%s: CompileLog = %t, want %t", c.text, got, c.want)
		}
		if got := c.e.String(); got != c.text {
			t.Errorf("String = %s, want %s", got, c.text)
		}
	}
	unknown := &kemi.LogRecord{Stream: kemi.LabelsOf("level", "custom")}
	if !(store.LogPhrase{Field: "level", Text: "custom"}).Match(unknown) {
		t.Error("the label level is not found where the severity is unknown")
	}
}

// TestPhraseAgainstTokens compares the search in the text with the plain meaning: the tokens one after another.
func TestPhraseAgainstTokens(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", "B", "ab", "Ab", "aB_", "b1", "É", "é", "e\u0301", "\xff", "Ü"}
	seps := []string{" ", "-", "", ".", "  ", "\xfe"}
	make := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteString(words[rng.IntN(len(words))] + seps[rng.IntN(len(seps))])
		}
		return b.String()
	}
	found := 0
	for range 50_000 {
		text, phrase := make(rng.IntN(8)), make(1+rng.IntN(2))
		tt, pt := store.Tokens(text), store.Tokens(phrase)
		if len(pt) == 0 {
			continue
		}
		want, wantPrefix := false, false
		for i := 0; i+len(pt) <= len(tt); i++ {
			want = want || slices.Equal(tt[i:i+len(pt)], pt)
			last := len(pt) - 1
			wantPrefix = wantPrefix || slices.Equal(tt[i:i+last], pt[:last]) && strings.HasPrefix(tt[i+last], pt[last])
		}
		r := &kemi.LogRecord{Body: text}
		if got := (store.LogPhrase{Text: phrase}).Match(r); got != want {
			t.Fatalf("%q in %q: %t, want %t", phrase, text, got, want)
		}
		trimmed := strings.TrimRight(phrase, " -.\xfe\xff") //nolint:staticcheck // not UTF-8 on purpose
		if got := (store.LogPrefix{Prefix: trimmed}).Match(r); got != wantPrefix {
			t.Fatalf("prefix %q in %q: %t, want %t", trimmed, text, got, wantPrefix)
		}
		if want {
			found++
		}
	}
	if found < 1000 {
		t.Fatalf("only %d found: the test says little", found)
	}
}

func FuzzTokens(f *testing.F) {
	for _, s := range append(korean, "a\xff가\xea\xb0", "e\u0301\u0300x", "İSTANBUL ẞ", "ㅎㅏㄴ", "タワー") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, tok := range store.Tokens(s) {
			if tok == "" {
				t.Fatal("empty token")
			}
		}
		r := &kemi.LogRecord{Body: s}
		for _, e := range []store.LogExpr{store.LogPhrase{Text: s}, store.LogPrefix{Prefix: s}} {
			if !e.Match(r) || !store.CompileLog(e)(r) {
				t.Fatalf("%q is not found in itself by %T", s, e)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	ascii := strings.Repeat("GET /api/v1/orders?id=123 took 12ms status=200 ", 6) + "connection reset by peer"
	hangul := strings.Repeat("주문 서비스에서 결제 요청 처리 중 ", 6) + "실패했습니다: 응답코드 500"
	for _, c := range []struct{ name, body, text string }{
		{"ascii-hit", ascii, "connection reset"}, {"ascii-miss", ascii, "deadlock"}, {"hangul-hit", hangul, "실패"}, {"hangul-miss", hangul, "만료"}, {"ascii-in-hangul", hangul, "500"},
	} {
		for name, m := range map[string]func(*kemi.LogRecord) bool{"match": store.LogPhrase{Text: c.text}.Match, "compiled": store.CompileLog(store.LogPhrase{Text: c.text})} {
			b.Run(fmt.Sprintf("%s/%s", c.name, name), func(b *testing.B) {
				r := &kemi.LogRecord{Body: c.body}
				b.SetBytes(int64(len(c.body)))
				b.ReportAllocs()
				for b.Loop() {
					m(r)
				}
			})
		}
	}
}

// TestPhraseNeeds: what an index would find by terms holds all that Match finds.
func TestPhraseNeeds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	pieces := []string{"응답", "시간", "이", "결제", " ", " ", "API", "x1", "30", "초", "東京", "タ", "-", "É", "\xff", "é", "한도 초과"}
	gen := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		return b.String()
	}
	found, cut := 0, 0
	for range 40_000 {
		text, query, prefix := gen(rng.IntN(10)), gen(1+rng.IntN(3)), rng.IntN(2) == 0
		terms := map[string]bool{}
		store.Terms(text, func(term []byte) { terms[string(term)] = true })
		for _, tok := range store.Tokens(text) {
			if !terms[tok] {
				t.Fatalf("Terms(%q) lacks token %q", text, tok)
			}
		}
		all, begins := store.PhraseNeeds(query, prefix)
		may := true
		for _, w := range all {
			may = may && terms[w]
		}
		for _, w := range begins {
			some := false
			for term := range terms {
				some = some || strings.HasPrefix(term, w)
			}
			may = may && some
		}
		var e store.LogExpr = store.LogPhrase{Text: query}
		if prefix {
			e = store.LogPrefix{Prefix: query}
		}
		is := e.Match(&kemi.LogRecord{Body: text})
		if is && !may {
			t.Fatalf("%s matches %q, but its terms %q %q are not among %v", e, text, all, begins, terms)
		}
		if is {
			found++
		}
		if !may {
			cut++
		}
	}
	if found < 1000 || cut < 1000 {
		t.Fatalf("%d found, %d cut: the test says little", found, cut)
	}
}
