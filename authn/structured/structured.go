// Package structured says what package authn says about tokens in the words of kube-apiserver: its AuthenticationConfiguration,
// the flags that came before that, and the form of EKS. So people and CI jobs log in without this program's webhook, under the
// same names.
//
// It promises that whoever gets a name by the AuthenticationConfiguration gets the one that authn gives, and that tokens which
// GitLab signed are refused as authn refuses them, but for what docs/login.md lists. The flags know people alone, and less
// of what a token has to be.
//
// It reads and writes no file.
package structured

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// configuration is the part of AuthenticationConfiguration (apiserver.config.k8s.io/v1, Kubernetes 1.34 and newer) that is used.
type configuration struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	JWT        []entry `json:"jwt"`
}

type entry struct {
	Issuer               issuer   `json:"issuer"`
	ClaimMappings        mappings `json:"claimMappings"`
	ClaimValidationRules []rule   `json:"claimValidationRules"`
	UserValidationRules  []rule   `json:"userValidationRules"`
}

type issuer struct {
	URL                  string   `json:"url"`
	CertificateAuthority string   `json:"certificateAuthority,omitempty"`
	Audiences            []string `json:"audiences"`
	AudienceMatchPolicy  string   `json:"audienceMatchPolicy"`
}

type mappings struct {
	Username expression `json:"username"`
	Groups   expression `json:"groups"`
	UID      expression `json:"uid"`
	Extra    []extra    `json:"extra"`
}

type expression struct {
	Expression string `json:"expression"`
}

type extra struct {
	Key             string `json:"key"`
	ValueExpression string `json:"valueExpression"`
}

type rule struct {
	Expression string `json:"expression"`
	Message    string `json:"message"`
}

// Configuration returns kube-apiserver's AuthenticationConfiguration for a Config of package authn, as YAML. ca is the PEM of the
// CA of GitLab's certificate, empty for the system's.
func Configuration(c authn.Config, ca []byte) ([]byte, error) {
	if c.CIIssuer == "" || c.CIAudience == "" {
		c.CIIssuer = c.Issuer
	}
	if err := checkIssuers(c.Issuer, c.CIIssuer); err != nil {
		return nil, err
	}
	out := configuration{APIVersion: "apiserver.config.k8s.io/v1", Kind: "AuthenticationConfiguration"}
	apart := c.CIIssuer != c.Issuer
	people, jobs := c, c
	if apart { // kube-apiserver takes each issuer once
		people.CIAudience, jobs.ClientIDs = "", nil
	}
	out.JWT = append(out.JWT, words{people}.entry(c.Issuer, ca))
	if apart {
		out.JWT = append(out.JWT, words{jobs}.entry(c.CIIssuer, ca))
	}
	return yaml.Marshal(out)
}

// checkIssuers reports what kube-apiserver can't be told.
func checkIssuers(issuers ...string) error {
	var errs []error
	for _, at := range slices.Compact(issuers) {
		if u, err := url.Parse(at); err != nil || u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("issuer %q: kube-apiserver reads keys by https alone: give GitLab a certificate", at))
		}
	}
	return errors.Join(errs...)
}

// words writes expressions (CEL) about the tokens of a Config. A Config without ClientIDs has jobs alone, one without CIAudience
// people alone.
type words struct{ authn.Config }

func (w words) entry(url string, ca []byte) entry {
	audiences := slices.Clone(w.ClientIDs)
	if w.CIAudience != "" {
		audiences = append(audiences, w.CIAudience)
	}
	return entry{
		Issuer: issuer{URL: url, CertificateAuthority: string(ca), Audiences: audiences, AudienceMatchPolicy: "MatchAny"},
		ClaimMappings: mappings{
			Username: expression{w.choose(
				quote(kubename.UserPrefix)+" + string(claims.?sub.orValue(''))",
				quote(kubename.CIPrefix)+" + string(claims.?project_id.orValue(''))")},
			Groups: expression{w.choose(quote(kubename.GroupUsers), quote(kubename.GroupCI))},
			UID:    expression{w.choose("string(claims.?sub.orValue(''))", "string(claims.?project_id.orValue(''))")},
			Extra:  w.extra(),
		},
		ClaimValidationRules: w.rules(url, audiences),
		UserValidationRules: []rule{{
			"user.username.matches('^gitlab:(ci:)?[1-9][0-9]{0,18}$') && user.groups.all(g, g.startsWith('gitlab:'))", message(authn.CodeUnsafeIdentity),
		}},
	}
}

// audiences is the list of a token's audiences: GitLab writes a single one as text.
const audiences = "(type(claims.aud) == list ? dyn(claims.aud) : dyn([claims.aud]))"

// isJob is true for the tokens of CI jobs, where both kinds can come.
func (w words) isJob() string { return quote(w.CIAudience) + " in " + audiences }

// choose returns the expression for people or for jobs, or one that chooses.
func (w words) choose(people, jobs string) string {
	switch {
	case w.CIAudience == "":
		return people
	case len(w.ClientIDs) == 0:
		return jobs
	default:
		return w.isJob() + " ? " + jobs + " : " + people
	}
}

// extra are the extra fields of authn's identities. What is no text, or looks like a name of Kubernetes' own, is left out.
func (w words) extra() []extra {
	out := []extra{{kubename.ExtraUsername, w.choose("("+shown("preferred_username")+" != '' ? "+shown("preferred_username")+" : "+shown("nickname")+")", shown("user_login"))}}
	if w.CIAudience == "" {
		return out
	}
	for _, e := range []struct{ key, claim string }{
		{kubename.ExtraProjectID, "project_id"},
		{kubename.ExtraProject, "project_path"},
		{kubename.ExtraPipeline, "pipeline_id"},
		{kubename.ExtraJob, "job_id"},
		{kubename.ExtraRef, "ref"},
		{kubename.ExtraEnv, "environment"},
	} {
		out = append(out, extra{e.key, w.choose("''", shown(e.claim))})
	}
	return out
}

func shown(claim string) string {
	c := "claims." + claim
	return "(has(" + c + ") && type(" + c + ") == string && !" + c + ".startsWith('system:') ? string(" + c + ") : '')"
}

// rules are authn's conditions, in its order, each with its code: kube-apiserver's log then says what docs/reasons.md explains.
func (w words) rules(issuer string, all []string) []rule {
	var out []rule
	add := func(code authn.Code, expression string) { out = append(out, rule{expression, message(code)}) }
	add(authn.CodeForeignIssuer, "claims.iss == "+quote(issuer))
	add(authn.CodeWrongAudience, audiences+".size() > 0 && "+audiences+".all(a, a in "+list(all)+")")
	both := w.CIAudience != "" && len(w.ClientIDs) > 0
	if both {
		add(authn.CodeMixedAudience, audiences+".all(a, a == "+quote(w.CIAudience)+") || !("+w.isJob()+")")
	}
	add(authn.CodeMissingIssuedAt, date("iat"))
	add(authn.CodeMalformedClaims, date("exp")+" && (!has(claims.nbf) || "+date("nbf")+")")
	if len(w.ClientIDs) > 0 {
		people := func(code authn.Code, expression string) {
			if both {
				expression = w.isJob() + " || (" + expression + ")"
			}
			add(code, expression)
		}
		var marks []string
		for _, claim := range []string{"job_id", "pipeline_id", "pipeline_source", "runner_id", "user_id", "user_login", "project_id", "job_project_id", "ref_protected"} {
			marks = append(marks, "!has(claims."+claim+")")
		}
		people(authn.CodeUserIsCIToken, strings.Join(marks, " && "))
		people(authn.CodeUserSubject, id("sub"))
	}
	if w.CIAudience != "" {
		w.jobs(func(code authn.Code, expression string) {
			if both {
				expression = "!(" + w.isJob() + ") || (" + expression + ")"
			}
			add(code, expression)
		})
	}
	return out
}

// jobs are the conditions of CI jobs.
func (w words) jobs(add func(authn.Code, string)) {
	add(authn.CodeCIIsUserToken, "!("+id("sub")+")")
	var must []string
	for _, claim := range []string{"sub", "job_id", "pipeline_id", "project_id", "ref_type", "jti"} {
		must = append(must, text(claim))
	}
	must = append(must, "has(claims.nbf)", "has(claims.ref_protected)", "(type(claims.ref_protected) == bool || "+text("ref_protected")+")")
	add(authn.CodeCIMissingClaim, strings.Join(must, " && "))
	add(authn.CodeCIMalformedClaim, id("project_id")+" && "+id("job_id")+" && "+id("pipeline_id"))
	add(authn.CodeCIForkMergeRequest, "has(claims.job_project_id) ? claims.job_project_id == claims.project_id : "+text("pipeline_source")+" && claims.pipeline_source != 'merge_request_event'")
	add(authn.CodeCINoEnvironment, text("environment"))
	add(authn.CodeCIWrongEnvironment, "has(claims.environment) && claims.environment in "+list(w.Environments))
	protected := "has(claims.ref_protected) && (claims.ref_protected == true || claims.ref_protected == 'true')"
	if len(w.UnprotectedProjects) > 0 {
		var exempt []int64
		for project, is := range w.UnprotectedProjects {
			if is {
				exempt = append(exempt, project)
			}
		}
		slices.Sort(exempt)
		var ids []string
		for _, project := range exempt {
			ids = append(ids, strconv.FormatInt(project, 10))
		}
		protected += " || has(claims.project_id) && claims.project_id in " + list(ids)
	}
	add(authn.CodeCIRefUnprotected, protected)
}

// text is true for a claim that is text and not empty.
func text(claim string) string {
	c := "claims." + claim
	return "has(" + c + ") && type(" + c + ") == string && " + c + " != ''"
}

// id is true for a claim that is an id as GitLab writes it: digits of a positive number that fits into 64 bits.
func id(claim string) string {
	c := "claims." + claim
	return "has(" + c + ") && type(" + c + ") == string && " + c + ".matches('^[1-9][0-9]{0,18}$') && (size(" + c + ") < 19 || string(" + c + ") <= '9223372036854775807')"
}

// date is true for a claim that is a NumericDate up to the year 9999.
func date(claim string) string {
	c := "claims." + claim
	return "has(" + c + ") && type(" + c + ") == double && " + c + " >= 0.0 && " + c + " <= 253402300799.0"
}

func list(values []string) string {
	var out []string
	for _, v := range values {
		out = append(out, quote(v))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// quote writes a text as CEL does.
func quote(s string) string {
	if !strings.ContainsAny(s, "'\\\n\r") {
		return "'" + s + "'"
	}
	return strconv.Quote(s)
}

// message is a reason as authn writes it.
func message(code authn.Code) string {
	reason, _ := authn.ReasonFor(code)
	return string(code) + ": " + reason.Cause
}

// one returns the only client id, which is all that the older forms take.
func one(c authn.Config) (string, error) {
	if len(c.ClientIDs) != 1 {
		return "", fmt.Errorf("client ids %s: this form takes exactly one: leave one in authn.clientIDs, or use the AuthenticationConfiguration", list(c.ClientIDs))
	}
	return c.ClientIDs[0], nil
}

// Flags returns kube-apiserver's flags for people, one a line, for clusters that take no AuthenticationConfiguration. caFile is
// the file with the CA of GitLab's certificate as kube-apiserver sees it, empty for the system's.
func Flags(c authn.Config, caFile string) ([]byte, error) {
	client, err := one(c)
	if err = errors.Join(err, checkIssuers(c.Issuer)); err != nil {
		return nil, err
	}
	flags := []string{
		"--oidc-issuer-url=" + c.Issuer, "--oidc-client-id=" + client,
		"--oidc-username-claim=sub", "--oidc-username-prefix=" + kubename.UserPrefix, "--oidc-signing-algs=RS256",
	}
	if caFile != "" {
		flags = append(flags, "--oidc-ca-file="+caFile)
	}
	return []byte(strings.Join(flags, "\n") + "\n"), nil
}

// EKS returns the same as input of `aws eks associate-identity-provider-config --cli-input-json`. EKS takes no CA: GitLab's
// certificate must be one that everybody trusts.
func EKS(c authn.Config, cluster string) ([]byte, error) {
	client, err := one(c)
	if err = errors.Join(err, checkIssuers(c.Issuer)); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(map[string]any{
		"clusterName": cluster,
		"oidc": map[string]string{
			"identityProviderConfigName": "gitlab", "issuerUrl": c.Issuer, "clientId": client,
			"usernameClaim": "sub", "usernamePrefix": kubename.UserPrefix,
		},
	}, "", "  ")
	return append(out, '\n'), err
}
