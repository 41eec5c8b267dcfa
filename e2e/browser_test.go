//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser starts a headless Chromium with a profile of its own.
func browser(t *testing.T) context.Context {
	t.Helper()
	o := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(needs(t, "chromium")), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.WindowSize(1200, 1000),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("lang", "en"),
	)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), o...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestPage looks at the page as a person does: signs in, sees this host's charts, finds a line, follows live, sees an alert and a pool.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, filepath.Join(dir, "data"), "agent: {interval: 1s}\nalerting: {interval: 1s, groupWait: 1s}\n")
	s.must("POST", "/api/v2/logs", map[string]string{"host": "web-1", "service": "pay", "level": "error", "_msg": "결제 실패: connection reset"}, "Content-Type", "application/json")
	s.must("PUT", "/api/v2/rules/always", "groups: [{name: g, interval: 1s, rules: [{alert: AlwaysOn, expr: vector(1), annotations: {summary: for the page}}]}]")
	s.must("PUT", "/api/v2/groups/pool-1", map[string]any{"spec": map[string]any{
		"driver": map[string]any{"type": "local", "local": map[string]any{"command": []string{"sleep", "600"}}}, "min": 2, "max": 5, "interval": "1s",
	}})
	ctx := browser(t)
	err := chromedp.Do(ctx,
		chromedp.Navigate(s.url+"/"),
		chromedp.WaitVisible(chromedp.CSS(`#token`)), // a person without a session is sent to the login
		chromedp.SendKeys(chromedp.CSS(`#token`), "kemi_wrong\r"),
		chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)),
		chromedp.SendKeys(chromedp.CSS(`#token`), s.token+"\r"),
		chromedp.WaitVisible(chromedp.CSS(`main .charts`)),
	)
	if err != nil {
		t.Fatalf("sign in: %v", err)
	}
	js := func(what, expression string) {
		t.Helper()
		eventually(t, 45*time.Second, what, func() error {
			if ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression)); err != nil || !ok {
				return fmt.Errorf("%s is %v, %v", expression, ok, err)
			}
			return nil
		})
	}
	js("this host's load is drawn", `document.querySelectorAll('.chart')[0].dataset.points > 1 && !!document.querySelector('.chart canvas')`)
	js("every chart has data", `[...document.querySelectorAll('.chart')].every(c => c.dataset.points > 0)`)
	js("the line is listed", `document.querySelector('#records').textContent.includes('결제 실패')`)
	js("the alert is shown", `document.querySelector('#alerts').textContent.includes('AlwaysOn')`)
	js("the pool is shown", `document.querySelector('[data-group=pool-1]')?.dataset.current == 2`)
	err = chromedp.Do(ctx,
		chromedp.SendKeys(chromedp.CSS(`#log-query`), "service:pay 실패\r"),
		chromedp.Click(chromedp.CSS(`#live`)),
	)
	if err != nil {
		t.Fatal(err)
	}
	js("the search finds one", `document.querySelectorAll('#records li .body').length === 1`)
	n := 0
	eventually(t, 20*time.Second, "a new line appears by itself", func() error {
		n++
		s.must("POST", "/api/v2/logs", map[string]string{"service": "pay", "_msg": fmt.Sprintf("새 실패 live-%d", n)}, "Content-Type", "application/json")
		text, err := chromedp.Run(ctx, chromedp.TextContent(chromedp.CSS(`#records`)))
		if err != nil || !strings.Contains(text, "live-") {
			return fmt.Errorf("not in %q, %v", text, err)
		}
		return nil
	})
	problem, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector('.problem')?.textContent ?? ''`))
	if err != nil || problem != "" {
		t.Fatalf("the page tells a problem: %q %v", problem, err)
	}
	// Small screens show it whole: nothing sticks out sideways.
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(360, 800)); err != nil {
		t.Fatal(err)
	}
	js("it fits a phone", `document.documentElement.scrollWidth <= 360`)
	if err := chromedp.Do(ctx, chromedp.Click(`//button[text()="Sign out"]`), chromedp.WaitVisible(chromedp.CSS(`#token`))); err != nil {
		t.Fatalf("sign out: %v", err)
	}
}
