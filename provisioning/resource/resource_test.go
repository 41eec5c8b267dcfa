package resource

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"kemi"
)

func TestReadSpec(t *testing.T) {
	for _, c := range []struct{ name, contentType, body, spec, problem string }{
		{name: "whole", body: `{"kind":"Host","metadata":{"name":"a","revision":3,"labels":{}},"spec":{"zone":"z"},"status":{"x":1}}`, spec: `{"zone":"z"}`},
		{name: "bare", body: `{"zone":"z"}`, spec: `{"zone":"z"}`},
		{name: "only spec", body: `{"spec":{}}`, spec: `{}`},
		{name: "YAML", contentType: "application/yaml; charset=utf-8", body: "kind: Host\nspec:\n  zone: z\n", spec: `{"zone":"z"}`},
		{name: "empty", body: " ", problem: "body: empty"},
		{name: "half", body: `{"spec":`, problem: "body: not JSON"},
		{name: "two", body: `{} {}`, problem: "body: not JSON"},
		{name: "list", body: `[]`, problem: "must be an object"},
		{name: "null", body: `null`, problem: "must be an object"},
		{name: "no spec", body: `{"kind":"Host","metadata":{"name":"a"}}`, problem: "spec: missing"},
		{name: "other kind", body: `{"kind":"Service","spec":{}}`, problem: `kind: "Service"`},
		{name: "other name", body: `{"metadata":{"name":"b"},"spec":{}}`, problem: `metadata.name: "b"`},
		{name: "unknown field", body: `{"spec":{},"sepc":{}}`, problem: "sepc: there is no such field"},
		{name: "kind is a number", body: `{"spec":{},"kind":7}`, problem: "kind: is a JSON number"},
		{name: "bad YAML", contentType: "text/yaml", body: "a: [", problem: "body: yaml"},
		{name: "YAML with a map as key", contentType: "text/yaml", body: "? {a: b}\n: c\n", problem: "body:"},
		{name: "large", body: `{"zone":"` + strings.Repeat("z", maxBody) + `"}`, problem: "more than"},
	} {
		r := httptest.NewRequest("PUT", "/", strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.contentType)
		spec, err := ReadSpec(httptest.NewRecorder(), r, "Host", "a")
		if c.problem == "" {
			if err != nil || string(spec) != c.spec {
				t.Errorf("%s: %s, %v", c.name, spec, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.problem) || !errors.Is(err, kemi.ErrInvalid) && !errors.Is(err, kemi.ErrTooLarge) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.problem)
		}
	}
}

func TestDecode(t *testing.T) {
	type inner struct {
		Min int `json:"min"`
	}
	for body, want := range map[string]string{
		`{"a":{"min":"x"}}`:        "spec.a.min: is a JSON string, must be a whole number",
		`{"a":{"min":1.5}}`:        "spec.a.min: is a JSON number 1.5, must be a whole number",
		`{"a":[]}`:                 "spec.a: is a JSON array, must be an object",
		`{"b":1}`:                  "spec.b: there is no such field",
		`{"a":{"min":1}}`:          "",
		`7`:                        "spec: is a JSON number, must be an object",
		`{"a":{"min":1e99}}`:       "spec.a.min: is a JSON number 1e99, must be a whole number",
		`{"a":{"min":1},"a\\n":1}`: "there is no such field",
	} {
		var v struct {
			A inner `json:"a"`
		}
		err := Decode([]byte(body), &v, "spec")
		if want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}

func TestQueryAndCondition(t *testing.T) {
	limit, after, q, err := Query(httptest.NewRequest("GET", "/x?limit=5&after=b&service=pay", nil), "service")
	if err != nil || limit != 5 || after != "b" || q.Get("service") != "pay" {
		t.Fatal(limit, after, q, err)
	}
	for _, bad := range []string{"limit=0", "limit=1001", "limit=x", "sevice=pay", "a=%zz"} {
		if _, _, _, err := Query(httptest.NewRequest("GET", "/x?"+bad, nil), "service"); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for header, want := range map[string]int64{"": -1, "*": -1, `"7"`: 7, `7`: 7, `"0"`: 0} {
		r := httptest.NewRequest("PUT", "/", nil)
		r.Header.Set("If-Match", header)
		if n, err := Condition(r); err != nil || n != want {
			t.Errorf("If-Match %s: %d, %v", header, n, err)
		}
	}
	r := httptest.NewRequest("PUT", "/", nil)
	r.Header.Set("If-Match", `W/"x"`)
	if _, err := Condition(r); !errors.Is(err, kemi.ErrInvalid) {
		t.Error(err)
	}
	r.Header.Set("If-None-Match", "*")
	if n, err := Condition(r); err != nil || n != 0 {
		t.Error(n, err)
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "web-1.example.com", "10.0.0.1", "fe80::1", "결제", "_x", strings.Repeat("n", 253)} {
		if err := CheckName("name", good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "a/b", "a b", "..", "a\nb", "a\x00", "\xff", strings.Repeat("n", 254), strings.Repeat("결", 100)} {
		if err := CheckName("name", bad); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
