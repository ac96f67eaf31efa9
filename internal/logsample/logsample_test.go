package logsample_test

import (
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
)

func TestOneLinePerSecond(t *testing.T) {
	var l logsample.Lines
	start, written, counted := time.Unix(1000, 0), 0, int64(0)
	for i := range 5000 {
		if n, ok := l.Allow(start.Add(time.Duration(i) * time.Millisecond / 2)); ok { // 2.5 s
			written, counted = written+1, counted+n
		}
	}
	if written != 3 || counted != 3998 {
		t.Errorf("%d lines written that count %d others, want 3 and 3998", written, counted)
	}
}
