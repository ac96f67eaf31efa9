package authn_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
)

var update = flag.Bool("update", false, "write docs/reasons.md anew")

// TestReasonsPageIsComplete: docs/reasons.md is made from the code, so each code has its cause and hint there.
func TestReasonsPageIsComplete(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Reason codes of token reviews\n\n" +
		"<!-- Made from authn/reason.go: go test ./authn -update -->\n\n" +
		"The code is in kube-apiserver's log (behind \"Unable to authenticate the request\"), in the integrator's log (`reason`) and in the metric\n" +
		"`gl_k8s_integrator_reviews_total{reason}`. Codes are stable.\n\n" +
		"| code | outcome | cause | hint |\n|---|---|---|---|\n")
	for _, r := range authn.Reasons() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Code, r.Outcome, r.Cause, r.Hint)
	}
	const page = "../docs/reasons.md"
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != b.String() {
		t.Errorf("docs/reasons.md is stale (go test ./authn -update): %v", err)
	}
}
