package status

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestHistoryIsNeverSilent: nothing on the terminal would leave open whether anything was looked at.
func TestHistoryIsNeverSilent(t *testing.T) {
	some := []change{{At: day, Namespace: "haw", Object: "RoleBinding x", Action: "update"}}
	for _, tt := range []struct {
		all       []change
		namespace string
		want      string
	}{
		{nil, "", "no change is remembered yet"},
		{nil, "haw", "no change is remembered yet"},
		{some, "", "haw: 1\n"},
		{some, "haw", "update RoleBinding x"},
		{some, "other", "no change of namespace other is remembered"},
	} {
		var out bytes.Buffer
		if printHistory(&out, tt.all, tt.namespace); !strings.Contains(out.String(), tt.want) {
			t.Errorf("%d changes, namespace %q: %q, want %q", len(tt.all), tt.namespace, out.String(), tt.want)
		}
	}
}
