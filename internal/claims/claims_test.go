package claims

import (
	"testing"
	"time"
)

func TestFromNow(t *testing.T) {
	for d, want := range map[time.Duration]string{-8*time.Minute - 4*time.Second: "8m4s ago", 90 * time.Second: "in 1m30s", 0: "in 0s"} {
		if got := fromNow(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
