//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestProjectsDoNotMeet writes a secret word into one project, in every way that there is, and looks for it from another, in every way that
// there is: answers, label lists, suggestions, errors, alerts, pools, the live tail.
func TestProjectsDoNotMeet(t *testing.T) {
	s := startServer(t, filepath.Join(t.TempDir(), "data"), "agent: {enabled: false}\nalerting: {interval: 1s, groupWait: 1s}\n")
	admin := s.token
	token := func(name, role, project string) string {
		var v struct {
			Token string `json:"token"`
		}
		if err := decode(s.must("POST", "/api/v2/tokens", map[string]string{"name": name, "role": role, "project": project}), &v); err != nil || v.Token == "" {
			t.Fatal(err)
		}
		return v.Token
	}
	blue, blueAgent := token("blue", "editor", "blue"), token("blue-agent", "agent", "blue")
	red, redAgent := token("red", "editor", "red"), token("red-agent", "agent", "red")
	const word = "xyzzyred"
	now := time.Now()

	s.token = redAgent
	s.must("POST", "/api/put", map[string]any{"metric": word + ".metric", "timestamp": now.Unix(), "value": 1, "tags": map[string]string{word + "tag": word + "value"}})
	s.must("POST", "/api/v1/write", writeRequest(oneSeries("shared_metric", now.UnixMilli(), 42, "who", word)), "Content-Type", remoteWriteType, "Content-Encoding", "snappy")
	s.must("POST", "/api/v2/logs", map[string]string{"host": word, "service": word, "_msg": word + " happened"}, "Content-Type", "application/json")
	s.must("POST", "/loki/api/v1/push", fmt.Sprintf(`{"streams":[{"stream":{"app":%q},"values":[["%d","%s by loki"]]}]}`, word, now.UnixNano(), word), "Content-Type", "application/json")
	s.must("PUT", "/api/v2/ims/hosts/"+word, map[string]any{"spec": map[string]string{"service": word}})
	if code, _ := s.call("GET", "/api/v1/query?query=up", nil); code != http.StatusForbidden {
		t.Errorf("an agent's token reads: %d", code)
	}
	s.token = red
	s.must("PUT", "/api/v2/rules/"+word, map[string]any{"keyword": map[string]any{"query": "*", "window": "5m", "threshold": 1, "by": []string{"host"}}})
	s.must("PUT", "/api/v2/receivers/"+word, map[string]any{"webhook": map[string]any{"url": "http://127.0.0.1:1/" + word}})
	s.must("POST", "/api/v2/logs", map[string]string{"host": word, "_msg": word}, "Content-Type", "application/json")
	eventually(t, 20*time.Second, "red sees its own alert", func() error {
		if _, text := s.call("GET", "/api/v2/alerts", nil); !strings.Contains(text, word) {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
	s.token = admin
	s.must("PUT", "/api/v2/groups/"+word, map[string]any{"spec": map[string]any{
		"driver": map[string]any{"type": "local", "local": map[string]any{"command": []string{"sleep", "600"}}}, "min": 0, "max": 1,
	}}, "X-Kemi-Project", "red")

	// The same questions, asked by red (which proves that they find something) and by blue (which must find nothing).
	type question struct {
		method, path string
		body         any
	}
	q := func(v ...string) string {
		u := url.Values{}
		for i := 0; i+1 < len(v); i += 2 {
			u.Set(v[i], v[i+1])
		}
		return u.Encode()
	}
	questions := []question{
		{"GET", "/api/v1/query?" + q("query", `shared_metric`), nil},
		{"GET", "/api/v1/query?" + q("query", `{__name__=~".+"}`), nil},
		{"GET", "/api/v1/series?" + q("match[]", `{__name__=~".+"}`), nil},
		{"GET", "/api/v1/labels", nil},
		{"GET", "/api/v1/label/who/values", nil},
		{"GET", "/api/v1/label/__name__/values", nil},
		{"GET", "/api/suggest?type=metrics&q=xyz", nil},
		{"GET", "/api/suggest?type=tagv&q=xyz", nil},
		{"POST", "/api/v2/query", `{"start":"1h-ago","queries":[{"metric":"-","aggregator":"none","filters":[{"tagk":"who","type":"wildcard","filter":"*","groupBy":true}]}]}`},
		{"GET", "/api/search/lookup?" + q("m", "*{who=*}"), nil},
		{"GET", "/api/v2/logs/query?" + q("query", "*", "start", "1h-ago"), nil},
		{"GET", "/api/v2/logs/fields?" + q("query", "*", "start", "1h-ago"), nil},
		{"GET", "/api/v2/alerts", nil},
		{"GET", "/alertmanager/api/v2/alerts", nil},
		{"GET", "/api/v2/rules", nil},
		{"GET", "/api/v2/receivers", nil},
		{"GET", "/api/v2/notifications", nil},
		{"GET", "/api/v2/ims/hosts", nil},
		{"GET", "/api/v2/groups", nil},
		{"GET", "/api/v2/decisions", nil},
	}
	for _, x := range questions {
		s.token = red
		eventually(t, 15*time.Second, "red finds its own by "+x.path, func() error {
			code, text := s.call(x.method, x.path, x.body)
			if code != http.StatusOK || !strings.Contains(text, word) && !strings.Contains(x.path, "notifications") && !strings.Contains(x.path, "decisions") {
				return fmt.Errorf("%d %.300s", code, text)
			}
			return nil
		})
		s.token = blue
		code, text := s.call(x.method, x.path, x.body)
		if code/100 == 5 || strings.Contains(text, word) {
			t.Errorf("blue asks %s: %d %.300s", x.path, code, text)
		}
		if code, text := s.call(x.method, x.path, x.body, "X-Scope-OrgID", "red"); code != http.StatusForbidden || strings.Contains(text, word) {
			t.Errorf("blue asks %s for red: %d %.300s", x.path, code, text)
		}
	}
	for _, path := range []string{"/api/v2/rules/", "/api/v2/receivers/", "/api/v2/ims/hosts/", "/api/v2/groups/"} {
		if code, text := s.call("GET", path+word, nil); code != http.StatusNotFound {
			t.Errorf("blue gets %s: %d %.200s", path, code, text)
		}
		if code, text := s.call("DELETE", path+word, nil); code != http.StatusNotFound && code != http.StatusForbidden {
			t.Errorf("blue deletes %s: %d %.200s", path, code, text)
		}
	}

	// Live: blue's tail stays silent while red's speaks.
	tails := map[string]*process{}
	for name, tok := range map[string]string{"red": red, "blue": blue} {
		tails[name] = spawn(t, []string{"KEMI_SERVER=" + s.url, "KEMI_TOKEN=" + tok}, binary(t), "tail")
	}
	s.token = redAgent
	eventually(t, 15*time.Second, "red's tail speaks", func() error {
		s.must("POST", "/api/v2/logs", map[string]string{"_msg": word + " live"}, "Content-Type", "application/json")
		if !strings.Contains(tails["red"].out.String(), word) {
			return fmt.Errorf("nothing yet")
		}
		return nil
	})
	s.token = blueAgent
	eventually(t, 15*time.Second, "blue's tail speaks of its own", func() error {
		s.must("POST", "/api/v2/logs", map[string]string{"_msg": "blue line"}, "Content-Type", "application/json")
		if !strings.Contains(tails["blue"].out.String(), "blue line") {
			return fmt.Errorf("nothing yet")
		}
		return nil
	})
	if strings.Contains(tails["blue"].out.String(), word) {
		t.Errorf("blue's tail shows red's lines: %s", tails["blue"].out.String())
	}
}
