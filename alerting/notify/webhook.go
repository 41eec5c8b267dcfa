package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/nflog/nflogpb"
	amnotify "github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/alertmanager/template"

	"kemi"
)

// hook is a webhook receiver: it writes the message that Alertmanager's own webhook would post, and puts it into the outbox.
type hook struct {
	m        *Manager
	conf     *webhook.WebhookConfig
	tmpl     *template.Template
	receiver string
	index    int
}

func (m *Manager) hooks(rcv config.Receiver, tmpl *template.Template) []amnotify.Integration {
	var out []amnotify.Integration
	for i, c := range rcv.WebhookConfigs {
		h := &hook{m: m, conf: c, tmpl: tmpl, receiver: rcv.Name, index: i}
		out = append(out, amnotify.NewIntegration(h, c, "webhook", i, rcv.Name))
	}
	return out
}

// Notify implements Alertmanager's notify.Notifier. When it returns nil the message is durable.
func (h *hook) Notify(ctx context.Context, alerts ...*alert.Alert) (retry bool, err error) {
	key, err := amnotify.ExtractGroupKey(ctx)
	if err != nil {
		return false, err
	}
	var truncated uint64
	if n := h.conf.MaxAlerts; n != 0 && uint64(len(alerts)) > n {
		truncated = uint64(len(alerts)) - n
		alerts = alerts[:n]
	}
	data := amnotify.GetTemplateData(ctx, h.tmpl, alerts, h.m.o.Log)
	body, err := json.Marshal(webhook.Message{Version: "4", Data: data, GroupKey: key.String(), TruncatedAlerts: truncated})
	if err != nil {
		return false, fmt.Errorf("write the message: %w", err)
	}
	target := string(h.conf.URL)
	if target == "" {
		b, err := os.ReadFile(h.conf.URLFile)
		if err != nil {
			return true, fmt.Errorf("read url_file: %w", err)
		}
		target = strings.TrimSpace(string(b))
	}
	var tmplErr error
	target = amnotify.TmplText(h.tmpl, data, &tmplErr)(target)
	if tmplErr != nil {
		return false, fmt.Errorf("URL: %w", tmplErr)
	}
	err = h.m.outbox.put(ctx, Message{
		Key: h.key(ctx, key.String()), Receiver: h.receiver, Group: key.String(), URL: target, Body: body, Queued: kemi.MillisOf(h.m.o.Now()),
	})
	return true, err
}

// key names this message: by what it tells, and by when its group was told last. After a crash between outbox and notification log the
// same message gets the same key; a repetition gets another.
func (h *hook) key(ctx context.Context, group string) string {
	firing, _ := amnotify.FiringAlerts(ctx)
	resolved, _ := amnotify.ResolvedAlerts(ctx)
	parts := []string{h.m.o.Project, group, h.receiver, strconv.Itoa(h.index), fmt.Sprint(firing), fmt.Sprint(resolved)}
	last, err := h.m.nflog.Query(nflog.QGroupKey(group), nflog.QReceiver(&nflogpb.Receiver{GroupName: h.receiver, Integration: "webhook", Idx: uint32(h.index)}))
	if err == nil && len(last) == 1 {
		parts = append(parts, last[0].Timestamp.AsTime().String())
	}
	return digest(parts...)
}
