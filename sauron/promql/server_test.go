package promql

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kemi"
	"kemi/pipeline/store"
)

// forgetful notes what it is to forget.
type forgetful struct {
	asked []string
	err   error
}

func (f *forgetful) Delete(_ context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) error {
	f.asked = append(f.asked, fmt.Sprint(id.Project, " ", sel, " ", r))
	return f.err
}

func (f *forgetful) CleanTombstones(context.Context) error {
	f.asked = append(f.asked, "clean")
	return f.err
}

func TestDeleteSeries(t *testing.T) {
	f := &forgetful{}
	h := testAPI(t, testStorage(t), func(_ *Config, o *Options) { o.Deleter, o.Cleaner = f, f })
	ask := func(path, form string) (int, string) {
		r := httptest.NewRequest("POST", "/api/v1/admin/tsdb/"+path, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, c := range []struct {
		path, form string
		code       int
		say        string
		asked      string
	}{
		{"delete_series", `match[]=up{job!~"a.*"}&start=1&end=2.5`, 204, "", "default [{3 job a.*} {0 __name__ up}] {1000 2501}"},
		{"delete_series", `match[]=a&match[]={b="c"}&start=1&end=1`, 204, "", "default [{0 __name__ a}] {1000 1001}|default [{0 b c}] {1000 1001}"},
		{"delete_series", "", 400, "no match[] parameter provided", ""},
		{"delete_series", "match[]=up{", 400, `invalid parameter \"match[]\"`, ""},
		{"delete_series", "match[]=a&match[]=up{", 400, `invalid parameter \"match[]\"`, ""}, // nothing of it is done
		{"delete_series", "match[]=up&start=5&end=4", 400, "end timestamp must not be before start timestamp", ""},
		{"delete_series", "match[]=up&start=x", 400, `invalid parameter \"start\"`, ""},
		{"clean_tombstones", "", 204, "", "clean"},
		{"snapshot", "", 501, "snapshots of the series alone are not made", ""},
	} {
		f.asked = nil
		code, body := ask(c.path, c.form)
		if code != c.code || !strings.Contains(body, c.say) || strings.Join(f.asked, "|") != c.asked {
			t.Errorf("%s %s: %d %s, asked %q", c.path, c.form, code, body, f.asked)
		}
	}
	f.err = kemi.Errorf(kemi.ErrUnavailable, "starting")
	if code, body := ask("delete_series", "match[]=up"); code != 503 || !strings.Contains(body, "delete up: starting") {
		t.Errorf("%d %s", code, body)
	}
	h = testAPI(t, testStorage(t), nil)
	for _, path := range []string{"delete_series", "clean_tombstones"} {
		if code, body := ask(path, "match[]=up"); code != 501 || !strings.Contains(body, `"errorType":"unavailable"`) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// TestNeeds: what is of the whole server, or changes it, is an admin's.
func TestNeeds(t *testing.T) {
	a, err := New(DefaultConfig(), Options{Source: testSource{testStorage(t)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range a.Routes() {
		_, path, _ := strings.Cut(r.Pattern, " ")
		admin := strings.Contains(path, "/admin/") || strings.HasSuffix(path, "/config") || strings.HasSuffix(path, "/flags") || strings.HasSuffix(path, "/blocks") || strings.HasSuffix(path, "/self_metrics")
		if r.Public != strings.HasPrefix(r.Pattern, "OPTIONS ") || r.Needs.String() == "" && !r.Public || (r.Needs == kemi.Admin) != admin {
			t.Errorf("%s: public %t, needs %s", r.Pattern, r.Public, r.Needs)
		}
	}
}

func TestCORS(t *testing.T) {
	for _, c := range []struct{ pattern, method, origin, token, allow string }{
		{".*", "GET", "https://grafana.example", "Bearer x", "*"},
		{".*", "GET", "https://grafana.example", "", ""}, // a cookie, or a server that asks for nothing
		{".*", "GET", "", "Bearer x", ""},
		{".*", "OPTIONS", "https://grafana.example", "", "*"},
		{`https://.*\.example`, "OPTIONS", "https://grafana.example", "", "https://grafana.example"},
		{`https://.*\.example`, "GET", "https://grafana.example.org", "Bearer x", ""},
		{"", "OPTIONS", "https://grafana.example", "", ""},
	} {
		h := testAPI(t, testStorage(t), func(cfg *Config, _ *Options) { cfg.CORSOrigin = c.pattern })
		r := httptest.NewRequest(c.method, "/api/v1/query?query=1", nil)
		for k, v := range map[string]string{"Origin": c.origin, "Authorization": c.token} {
			if v != "" {
				r.Header.Set(k, v)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := w.Header().Get("Access-Control-Allow-Origin"); got != c.allow || w.Header().Get("Vary") != "Origin" {
			t.Errorf("%+v: allowed %q, vary %q", c, got, w.Header().Get("Vary"))
		}
	}
}

func TestServerStatus(t *testing.T) {
	reg := prometheus.NewRegistry()
	fresh := store.Freshness{Reason: "replay under way: 7 records left"}
	h := testAPI(t, testStorage(t), func(_ *Config, o *Options) {
		o.Gatherer, o.Registerer, o.Freshness = reg, reg, func() store.Freshness { return fresh }
		o.Process = Process{
			Started: time.Unix(1, 0), Retention: 2 * 365 * 24 * time.Hour, Config: func() string { return "listen: x\n" }, Replay: func() (int, int, int) { return 1, 9, 4 },
			Blocks: func(context.Context) (any, error) { return []string{"b"}, nil },
		}
	})
	for path, want := range map[string]string{
		"status/config": `{"yaml":"listen: x\n"}`, "status/flags": `{}`, "status/walreplay": `{"current":4,"max":9,"min":1}`, "status/tsdb/blocks": `{"blocks":["b"]}`,
		"status/runtimeinfo": `"startTime":"1970-01-01T00:00:01Z"`, "features": `"at_modifier":true`, "alertmanagers": `{"activeAlertmanagers":[],"droppedAlertmanagers":[]}`,
		"notifications":       `[{"text":"Answers are not complete: replay under way: 7 records left","date":"1970-01-01T00:00:01Z","active":true}]`,
		"status/self_metrics": `"name":"kemi_query_running"`,
	} {
		w := get(h, "/api/v1/"+path, "")
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := get(h, "/api/v1/status/runtimeinfo", ""); !strings.Contains(w.Body.String(), `"storageRetention":"2y"`) || !strings.Contains(w.Body.String(), `"hostname":""`) {
		t.Errorf("runtime information for one who is no admin: %s", w.Body)
	}
	fresh = store.Freshness{Complete: true}
	if w := get(h, "/api/v1/notifications", ""); !strings.Contains(w.Body.String(), `"data":[]`) {
		t.Errorf("complete: %s", w.Body)
	}
}

// TestLiveNotifications: a notice is sent when it comes and when it goes, and the stream ends with its reader.
func TestLiveNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fresh atomic.Pointer[store.Freshness]
		fresh.Store(&store.Freshness{Reason: "replay"})
		a, err := New(DefaultConfig(), Options{Source: slowSource{}, Freshness: func() store.Freshness { return *fresh.Load() }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w := httptest.NewRecorder()
		ended := make(chan struct{})
		go func() {
			a.liveNotifications(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx), reader)
			close(ended)
		}()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		fresh.Store(&store.Freshness{Complete: true})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		cancel()
		<-ended
		if got := w.Body.String(); strings.Count(got, "data: ") != 2 || !strings.Contains(got, `"active":true`) || !strings.Contains(got, `"active":false`) {
			t.Errorf("%s", got)
		}
	})
}
