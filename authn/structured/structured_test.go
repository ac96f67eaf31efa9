package structured_test

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/structured"
)

// TestEveryRuleHasItsCode: kube-apiserver's log has the codes of docs/reasons.md, each with its cause.
func TestEveryRuleHasItsCode(t *testing.T) {
	text, err := structured.Configuration(authn.Config{Issuer: "https://gitlab.example.com", ClientIDs: []string{"a"}, CIAudience: "b", Environments: []string{"it's"}}, []byte("PEM"))
	if err != nil {
		t.Fatal(err)
	}
	type rule struct{ Expression, Message string }
	var c struct {
		JWT []struct {
			Issuer                                    struct{ CertificateAuthority string }
			ClaimValidationRules, UserValidationRules []rule
		}
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if len(c.JWT) != 1 || c.JWT[0].Issuer.CertificateAuthority != "PEM" || len(c.JWT[0].ClaimValidationRules) < 10 || len(c.JWT[0].UserValidationRules) == 0 {
		t.Fatalf("got\n%s", text)
	}
	for _, r := range append(c.JWT[0].ClaimValidationRules, c.JWT[0].UserValidationRules...) {
		code, cause, _ := strings.Cut(r.Message, ": ")
		if reason, known := authn.ReasonFor(authn.Code(code)); !known || reason.Cause != cause {
			t.Errorf("%q is no reason of authn", r.Message)
		}
	}
	if !slices.ContainsFunc(c.JWT[0].ClaimValidationRules, func(r rule) bool { return strings.HasSuffix(r.Expression, `claims.environment in ["it's"])`) }) {
		t.Errorf("the environment is not quoted as CEL quotes it:\n%s", text)
	}
}

// TestWhatDoesNotFit: what a form can't say is an error.
func TestWhatDoesNotFit(t *testing.T) {
	good := authn.Config{Issuer: "https://gitlab.example.com", ClientIDs: []string{"a"}}
	two, http := good, good
	two.ClientIDs, http.Issuer = []string{"a", "b"}, "http://127.0.0.1"
	for name, c := range map[string]struct {
		config authn.Config
		want   string
	}{"good": {good, ""}, "two client ids": {two, "exactly one"}, "http": {http, "https alone"}} {
		_, flags := structured.Flags(c.config, "")
		_, eks := structured.EKS(c.config, "icc")
		for _, err := range []error{flags, eks} {
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := structured.Configuration(http, nil); err == nil {
		t.Error("an AuthenticationConfiguration for http")
	}
	if text, err := structured.Flags(good, "/ca.crt"); err != nil || !strings.Contains(string(text), "--oidc-ca-file=/ca.crt\n") {
		t.Errorf("%s %v", text, err)
	}
}
