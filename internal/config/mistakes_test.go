package config_test

import (
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// TestTheRightURLIsNamed: whatever was copied behind GitLab's external URL is refused with the URL to write; no user and no
// query is repeated.
func TestTheRightURLIsNamed(t *testing.T) {
	for _, external := range []string{"https://gitlab.example.com", "https://example.com/gitlab", "https://gitlab.example.com:8443", "https://example.com/api-things"} {
		file := func(url string) []byte { return []byte(strings.Replace(minimal, "https://gitlab.example.com", url, 1)) }
		if _, err := config.Parse(file(external)); err != nil {
			t.Errorf("%s: %v", external, err)
		}
		host := strings.TrimPrefix(external, "https://")
		for _, wrong := range []string{
			external + "/", external + "//", external + "/api", external + "/api/", external + "/api/v4", external + "/api/v4/", external + "/api/v4/projects", external + "/api/graphql", external + "/-/graphql-explorer",
			external + "/users/sign_in", external + "/admin/users", external + "/.well-known/openid-configuration", external + "?private_token=s3cret",
			external + "#top", external + "/api/v4?private_token=s3cret", "https://root:s3cret@" + host, "https://s3cret@" + host + "/api/v4", "HTTPS://" + strings.ToUpper(host[:3]) + host[3:],
		} {
			_, err := config.Parse(file(wrong))
			if err == nil || !strings.HasSuffix(strings.TrimSpace(err.Error()), ": write "+external) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: %v", wrong, err)
			}
		}
	}
	for _, wrong := range []string{"http://root:s3cret@gitlab.example.com", "ftp://x:s3cret@y", "https://s3cret:x", "gitlab.example.com"} {
		_, err := config.Parse([]byte(strings.Replace(minimal, "https://gitlab.example.com", wrong, 1)))
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// TestMistakesAreReportedInOneTrip: each mistake with its remedy, all at once.
func TestMistakesAreReportedInOneTrip(t *testing.T) {
	_, err := config.Parse([]byte(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: "https://gitlab.example.com", readTokenFile: "/r ", writeTokenFile: /w}
listeners: {webhooks: {address: "127.0.0.1:8443", certFile: /c, keyFile: /k}}
authn: {clientIDs: [one, two, one], apiAudiences: [three, two], ci: {audience: three}}
authz:
  roles: [{clusterRole: a/b, levels: [30, 31]}, {clusterRole: "..", levels: [owner]}]
  extra: [{source: project/1, clusterRole: "50%", levels: [40]}]
ci: {environment: "ICC-K8s "}
`))
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		"authz.roles[0].levels[0]: want text, not 30: write developer", "authz.roles[0].levels[1]: want text, not 31: write guest, planner",
		"authz.extra[0].levels[0]: want text, not 40: write maintainer",
		`authz.roles[0].clusterRole: "a/b" is not the name of a ClusterRole`, `authz.roles[1].clusterRole: ".."`, `authz.extra[0].clusterRole: "50%"`,
		`authn.clientIDs[2]: "one" is authn.clientIDs[0] already`, `authn.apiAudiences[1]: "two" is authn.clientIDs[1] already`, `authn.ci.audience: "three" is authn.apiAudiences[0] already`,
		"ci.environment: begins or ends with a blank", "gitlab.readTokenFile: begins or ends with a blank",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

// TestProtectedMetrics: a token for metrics goes over TLS, except on a loopback address, and a certificate has its key.
func TestProtectedMetrics(t *testing.T) {
	for listener, want := range map[string]string{
		`{address: "0.0.0.0:9090"}`:                                           "",
		`{address: "127.0.0.1:9090", tokenFile: /t}`:                          "",
		`{address: "0.0.0.0:9090", certFile: /c, keyFile: /k, tokenFile: /t}`: "",
		`{address: "0.0.0.0:9090", certFile: /c, keyFile: /k}`:                "",
		`{tokenFile: /t}`:                                                         "",
		`{address: "0.0.0.0:9090", tokenFile: /t}`:                                "listeners.metrics.certFile: is missing",
		`{address: "127.0.0.1:9090", certFile: /c}`:                               "listeners.metrics: certFile and keyFile belong together",
		`{address: "127.0.0.1:9090", keyFile: /k, tokenFile: /t}`:                 "listeners.metrics: certFile and keyFile belong together",
		`{address: "0.0.0.0:9090", certFile: /c, keyFile: /k, tokenFile: "/t  "}`: "listeners.metrics.tokenFile",
	} {
		_, err := config.Parse([]byte(strings.Replace(minimal, "listeners: {", "listeners: {metrics: "+listener+", ", 1)))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", listener, err, want)
		}
	}
}

// TestThePage: the page has an application, a host and files of its own, and its port speaks TLS beyond loopback.
func TestThePage(t *testing.T) {
	const listener, keys = `web: {address: "0.0.0.0:8445", certFile: /c, keyFile: /k}`, "clientSecretFile: /s, sessionKeyFile: /sk"
	for _, c := range []struct{ listener, section, want string }{
		{listener, "", ""},
		{listener, `{url: "https://icc.example.com"}`, ""}, // the API alone, and its URL for tools
		{listener, `{url: "https://icc.example.com", clientID: page, ` + keys + "}", ""},
		{listener, `{url: "https://icc.example.com:8445", clientID: page, ` + keys + ", adminGroup: 7, language: de}", ""},
		{`web: {address: "127.0.0.1:8445"}`, `{url: "https://icc.example.com", clientID: page, ` + keys + "}", ""},
		{`web: {address: "0.0.0.0:8445"}`, "", "listeners.web.certFile: is missing"},
		{`web: {address: "127.0.0.1:8445", certFile: /c}`, "", "listeners.web: certFile and keyFile belong together"},
		{`web: {address: "8445"}`, "", "listeners.web.address: want host:port"},
		{`web: {address: "127.0.0.1:8443"}`, "", "listeners.web.address: 127.0.0.1:8443 can't be listened on beside"},
		{"", `{url: "https://icc.example.com", clientID: page, ` + keys + "}", "listeners.web.address: is missing"},
		{listener, "{clientID: page, " + keys + "}", "web.url: is missing"},
		{listener, `{url: "https://icc.example.com", clientID: page, sessionKeyFile: /sk}`, "web.clientSecretFile: is missing"},
		{listener, `{url: "https://icc.example.com", clientID: page, clientSecretFile: /s}`, "web.sessionKeyFile: is missing"},
		{listener, "{" + keys + "}", "web.clientID: is missing"},
		{listener, `{url: "https://icc.example.com", clientID: 5f1c, ` + keys + "}", `web.clientID: "5f1c" is authn.clientIDs[0] already`},
		{listener, `{url: "https://icc.example.com", clientID: kubernetes, ` + keys + "}", `web.clientID: "kubernetes" is authn.apiAudiences[0] already`},
		{listener, `{url: "https://icc.example.com", clientID: icc, ` + keys + "}", `web.clientID: "icc" is authn.ci.audience already`},
		{listener, `{url: "http://icc.example.com", clientID: page, ` + keys + "}", "web.url: want https"},
		{listener, `{url: "https://icc.example.com/", clientID: page, ` + keys + "}", "web.url: want https"},
		{listener, `{url: "https://icc.example.com/page", clientID: page, ` + keys + "}", "web.url: want https"},
		{listener, `{url: "https://u:s3cret@icc.example.com", clientID: page, ` + keys + "}", "web.url: want https"},
		{listener, `{url: "https://icc.example.com?x", clientID: page, ` + keys + "}", "web.url: want https"},
		{listener, "{language: fr}", "web.language: want one of en, de"},
		{listener, "{adminGroup: -1}", "web.adminGroup: -1 is not a group id"},
	} {
		file := strings.Replace(minimal, "clientIDs: [5f1c]", "clientIDs: [5f1c], apiAudiences: [kubernetes], ci: {audience: icc}", 1)
		if c.listener != "" {
			file = strings.Replace(file, "listeners: {", "listeners: {"+c.listener+", ", 1)
		}
		if c.section != "" {
			file += "web: " + c.section + "\n"
		}
		_, err := config.Parse([]byte(file))
		if (c.want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s %s: %v, want %q", c.listener, c.section, err, c.want)
		}
	}
}
