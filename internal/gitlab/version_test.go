package gitlab

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

// TestVersionOfGitLab: what is too old is refused by everything, with both versions; what can't be told is taken for new.
func TestVersionOfGitLab(t *testing.T) {
	for _, tt := range []struct {
		version string
		rest    bool
		tooOld  bool
	}{
		{"12.10.14-ee", false, true},
		{"12.10.14-ee", true, true},
		{"14.10.5", false, true},
		{"15.0.0", false, false},
		{"15.0.0", true, false},
		{"19.1.0-ee", false, false},
	} {
		o := newOrgOf(t, tt.version)
		s, err := o.reader(func(op *Options) { op.RESTOnly = tt.rest }).Snapshot(t.Context())
		if errors.Is(err, ErrTooOld) != tt.tooOld || (s == nil) != tt.tooOld {
			t.Errorf("%s, by REST %v: %v", tt.version, tt.rest, err)
		}
		reg, rerr := NewHookRegistrar(o.writeOptions("root"))
		o.ok(rerr)
		if rerr = reg.Supported(t.Context()); errors.Is(rerr, ErrTooOld) != tt.tooOld {
			t.Errorf("%s: hooks: %v", tt.version, rerr)
		}
		v, verr := o.writer("root").Version(t.Context())
		if errors.Is(verr, ErrTooOld) != tt.tooOld || !strings.HasPrefix(tt.version, v.String()) {
			t.Errorf("%s: the writer says %v, %v", tt.version, v, verr)
		}
		if tt.tooOld && (!strings.Contains(err.Error(), tt.version) || !strings.Contains(err.Error(), "15.0")) {
			t.Errorf("%q does not name both versions", err)
		}
	}
}

func TestVersionNotShown(t *testing.T) {
	o := newOrg(t)
	for name, body := range map[string]*http.Response{
		"refused": answer(403, `{"message":"403 Forbidden"}`), "another form": answer(200, `{"version":"nightly"}`),
	} {
		r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
			if strings.HasSuffix(r.URL.Path, "/version") {
				return body
			}
			return nil
		}, func(op *Options) { op.RESTOnly = true })
		info, err := r.Probe(t.Context())
		if err != nil || len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], "taken for the newest") {
			t.Errorf("%s: %v, %v", name, info.Warnings, err)
		}
	}
}
