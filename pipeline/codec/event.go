package codec

import (
	"encoding/json"
	"fmt"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

// cloudEvent is a CloudEvents 1.0 event in JSON, with KEMI's own attributes as extensions.
type cloudEvent struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject,omitempty"`
	Time        string          `json:"time"`
	ContentType string          `json:"datacontenttype,omitempty"`
	Project     string          `json:"kemiproject"`
	Firing      bool            `json:"kemifiring,omitempty"`
	Tags        kemi.Labels     `json:"kemitags,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
}

const eventTypePrefix = "kemi."

// EncodeEvent makes the record of an event, keyed by project and subject so that events of one thing keep their order.
func EncodeEvent(e kemi.Event) (bus.Record, error) {
	ce := cloudEvent{
		SpecVersion: "1.0", ID: e.ID, Source: "kemi/" + e.Project, Type: eventTypePrefix + e.Kind, Subject: e.Subject,
		Time: e.At.Time().Format(time.RFC3339Nano), Project: e.Project, Firing: e.Firing, Tags: e.Tags, Data: e.Data,
	}
	if e.Data != nil {
		ce.ContentType = "application/json"
	}
	v, err := json.Marshal(ce)
	if err != nil {
		return bus.Record{}, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	return bus.Record{
		Key: []byte(e.Project + "\x00" + e.Subject), Value: v, At: e.At,
		Headers: []bus.Header{{Name: HeaderProject, Value: e.Project}, {Name: "content-type", Value: "application/cloudevents+json"}},
	}, nil
}

// DecodeEvent reads what EncodeEvent made.
func DecodeEvent(r *bus.Record) (kemi.Event, error) {
	var ce cloudEvent
	if err := json.Unmarshal(r.Value, &ce); err != nil {
		return kemi.Event{}, kemi.Errorf(kemi.ErrInvalid, "event at %d/%d: %w", r.Partition, r.Offset, err)
	}
	at, err := time.Parse(time.RFC3339Nano, ce.Time)
	if err != nil {
		return kemi.Event{}, kemi.Errorf(kemi.ErrInvalid, "event %s: time %q: %w", ce.ID, ce.Time, err)
	}
	e := kemi.Event{
		ID: ce.ID, Project: ce.Project, Kind: ce.Type, Subject: ce.Subject, At: kemi.MillisOf(at), Firing: ce.Firing,
		Tags: ce.Tags, Data: ce.Data,
	}
	if len(ce.Type) > len(eventTypePrefix) && ce.Type[:len(eventTypePrefix)] == eventTypePrefix {
		e.Kind = ce.Type[len(eventTypePrefix):]
	}
	return e, nil
}
