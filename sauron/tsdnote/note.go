package tsdnote

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"kemi"
	"kemi/sauron/tsdhttp"
)

// Note is an annotation. Times are as they were given: seconds, or milliseconds if they have more than 32 bits.
type Note struct {
	TSUID       string            `json:"tsuid"` // of the series; empty = of all
	StartTime   int64             `json:"startTime"`
	EndTime     int64             `json:"endTime"` // 0 = none
	Description *string           `json:"description,omitempty"`
	Notes       *string           `json:"notes,omitempty"`
	Custom      map[string]string `json:"custom,omitempty"`
}

// At is when the note begins.
func (n *Note) At() kemi.Millis { return kemi.Millis(millis(n.StartTime)) }

// millis is a time in milliseconds that may be one in seconds.
func millis(t int64) int64 {
	if t > math.MaxUint32 {
		return t
	}
	return t * 1000
}

// Change is a note as a request gives it, with what of it was said.
type Change struct {
	Note
	HasEnd, HasDescription, HasNotes, HasCustom bool
}

// UnmarshalJSON reads a note as OpenTSDB does: a field that says what a new note has anyway does not count as said, times may be strings, and values of
// custom anything that is no object or list.
func (c *Change) UnmarshalJSON(b []byte) error {
	var in struct {
		TSUID       string                     `json:"tsuid"`
		StartTime   json.RawMessage            `json:"startTime"`
		EndTime     json.RawMessage            `json:"endTime"`
		Description json.RawMessage            `json:"description"`
		Notes       json.RawMessage            `json:"notes"`
		Custom      map[string]json.RawMessage `json:"custom"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	empty := ""
	*c = Change{Note: Note{TSUID: in.TSUID, Description: &empty, Notes: &empty}}
	var err error
	if c.StartTime, err = whole("startTime", in.StartTime); err != nil {
		return err
	}
	if c.EndTime, err = whole("endTime", in.EndTime); err != nil {
		return err
	}
	c.HasEnd = c.EndTime != 0
	for _, f := range []struct {
		name string
		raw  json.RawMessage
		into **string
		said *bool
	}{{"description", in.Description, &c.Description, &c.HasDescription}, {"notes", in.Notes, &c.Notes, &c.HasNotes}} {
		switch s := strings.TrimSpace(string(f.raw)); s {
		case "", `""`:
		case "null":
			*f.into, *f.said = nil, true
		default:
			text, err := scalar(f.name, f.raw)
			if err != nil {
				return err
			}
			*f.into, *f.said = &text, true
		}
	}
	if in.Custom != nil {
		c.Custom, c.HasCustom = map[string]string{}, true
		for k, v := range in.Custom {
			if c.Custom[k], err = scalar("custom."+k, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func scalar(field string, raw json.RawMessage) (string, error) {
	raw = bytes.TrimSpace(raw)
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case '{', '[':
		return "", tsdhttp.Bad("Unable to parse the given JSON", field+": "+tsdhttp.Clip(string(raw))+": must be a text")
	}
	return string(raw), nil
}

func whole(field string, raw json.RawMessage) (int64, error) {
	s := strings.Trim(strings.TrimSpace(string(raw)), `"`)
	if s == "" || s == "null" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(s, 64)
		if ferr != nil || math.Abs(f) > 1<<53 {
			return 0, tsdhttp.Bad("Unable to parse the given JSON", field+": "+tsdhttp.Clip(s)+": must be a time in seconds or milliseconds")
		}
		n = int64(f)
	}
	return n, nil
}

// onto is what becomes of old by the change; with whole, what it does not say is as in a new note. old may be nil.
func (c *Change) onto(old *Note, whole bool) Note {
	n := c.Note
	if old == nil || whole {
		return n
	}
	if !c.HasEnd {
		n.EndTime = old.EndTime
	}
	if !c.HasDescription {
		n.Description = old.Description
	}
	if !c.HasNotes {
		n.Notes = old.Notes
	}
	if !c.HasCustom {
		n.Custom = old.Custom
	}
	n.StartTime = min(n.StartTime, old.StartTime)
	return n
}

// Empty tells whether nothing is said but where the note stands.
func (c *Change) Empty() bool { return !c.HasEnd && !c.HasDescription && !c.HasNotes && !c.HasCustom }
