package query

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"kemi/sauron/tsdhttp"
)

var update = flag.Bool("update", false, "rewrite what the scenarios in testdata expect")

// TestScenarios runs testdata/*.txt. A file is commands, each with an expectation, and lines that begin with # are remarks:
//
//	load <metric>{<tags>} <start> <step>: <values>
//	post <path>      followed by lines of the body up to ----, then by the answer up to an empty line
//	get <path>       followed by ----, then by the answer up to an empty line
//
// The answer is "status body"; JSON is compared by what it says.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			for _, stretch := range []int{0, 1, 2} {
				if stretch > 0 && *update {
					break
				}
				runScenario(t, f, stretch)
			}
		})
	}
}

func runScenario(t *testing.T, file string, stretch int) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	m.stretch = stretch
	mux := serve(newEngine(t, m))
	var out bytes.Buffer
	lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	ran := 0
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		fmt.Fprintln(&out, line)
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "", "#":
		case "load":
			if err := m.load(rest); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
		case "get", "post":
			at := i + 1
			body := ""
			for i++; i < len(lines) && lines[i] != "----"; i++ {
				body += lines[i] + "\n"
				fmt.Fprintln(&out, lines[i])
			}
			fmt.Fprintln(&out, "----")
			want := ""
			for i++; i < len(lines) && lines[i] != ""; i++ {
				want += lines[i] + "\n"
			}
			i--
			req := httptest.NewRequest(strings.ToUpper(verb), rest, strings.NewReader(body))
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, req)
			got := fmt.Sprintf("%d %s", w.Code, readable(w.Body.Bytes()))
			out.WriteString(got)
			ran++
			if !*update && !sameAnswer(got, want) {
				t.Errorf("%s:%d (stretch %d): %s\ngot  %s\nwant %s", file, at, stretch, line, got, want)
			}
		default:
			t.Fatalf("%s:%d: no such command: %s", file, i+1, line)
		}
	}
	if ran == 0 {
		t.Fatalf("%s asks nothing", file)
	}
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// readable is an answer with one result a line.
func readable(b []byte) string {
	var list []json.RawMessage
	if json.Unmarshal(b, &list) != nil || len(list) == 0 {
		return strings.TrimSpace(string(b)) + "\n"
	}
	s := "["
	for i, r := range list {
		if i > 0 {
			s += ","
		}
		s += "\n " + string(r)
	}
	return s + "\n]\n"
}

func sameAnswer(got, want string) bool {
	gs, gb, _ := strings.Cut(strings.TrimSpace(got), " ")
	ws, wb, _ := strings.Cut(strings.TrimSpace(want), " ")
	var g, w any
	if json.Unmarshal([]byte(gb), &g) == nil && json.Unmarshal([]byte(wb), &w) == nil {
		return gs == ws && reflect.DeepEqual(g, w)
	}
	return gs == ws && gb == wb
}

// serve is the engine's routes for testID, as the server has them.
func serve(e *Engine) *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range tsdhttp.Routes(e.Endpoints()) {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) { r.Handle(w, req, testID) })
	}
	return mux
}

func do(tb testing.TB, h http.Handler, method, target, body string) (int, string, http.Header) {
	tb.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	b, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(b), w.Header()
}
