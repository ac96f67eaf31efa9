package setup

import (
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// AuthorizationConfiguration is the part of kube-apiserver's file of that kind that we need. Source: k8s.io/apiserver,
// pkg/apis/apiserver/v1.
type AuthorizationConfiguration struct {
	APIVersion  string       `json:"apiVersion"`
	Kind        string       `json:"kind"`
	Authorizers []Authorizer `json:"authorizers"`
}

// Authorizer is one entry; they are asked in their order.
type Authorizer struct {
	Type    string             `json:"type"`
	Name    string             `json:"name"`
	Webhook *AuthorizerWebhook `json:"webhook,omitempty"`
}

// AuthorizerWebhook says how a webhook is asked, and about whom.
type AuthorizerWebhook struct {
	Timeout                    string           `json:"timeout"`
	SubjectAccessReviewVersion string           `json:"subjectAccessReviewVersion"`
	MatchConditionVersion      string           `json:"matchConditionSubjectAccessReviewVersion"`
	FailurePolicy              string           `json:"failurePolicy"`
	AuthorizedTTL              string           `json:"authorizedTTL"`
	UnauthorizedTTL            string           `json:"unauthorizedTTL"`
	ConnectionInfo             ConnectionInfo   `json:"connectionInfo"`
	MatchConditions            []MatchCondition `json:"matchConditions"`
}

// ConnectionInfo names the kubeconfig of a webhook.
type ConnectionInfo struct {
	Type           string `json:"type"`
	KubeConfigFile string `json:"kubeConfigFile"`
}

// MatchCondition is a CEL expression; all have to be true for the webhook to be asked.
type MatchCondition struct {
	Expression string `json:"expression"`
}

// authorization is the AuthorizationConfiguration with Node and RBAC, which keep their rights, and our webhook behind them. It
// explains refusals and decides nothing: NoOpinion, so that whether it answers does not change what is allowed. minor is Kubernetes' version, 0 if it is not known.
func authorization(dir string, minor int) AuthorizationConfiguration {
	version := "apiserver.config.k8s.io/v1"
	if minor > 0 && minor < authzV1Minor {
		version += "beta1"
	}
	return AuthorizationConfiguration{
		APIVersion: version, Kind: "AuthorizationConfiguration",
		Authorizers: []Authorizer{
			{Type: "Node", Name: "node"},
			{Type: "RBAC", Name: "rbac"},
			{Type: "Webhook", Name: "gitlab", Webhook: &AuthorizerWebhook{
				Timeout: "2s", SubjectAccessReviewVersion: "v1", MatchConditionVersion: "v1",
				FailurePolicy: "NoOpinion", AuthorizedTTL: "5s", UnauthorizedTTL: "5s",
				ConnectionInfo: ConnectionInfo{Type: "KubeConfigFile", KubeConfigFile: path.Join(dir, "authorize.kubeconfig")},
				MatchConditions: []MatchCondition{{Expression: fmt.Sprintf(
					"request.user.startsWith('%s') || request.user == 'system:anonymous' || "+
						"(request.user.startsWith('system:serviceaccount:') && request.user.endsWith(':%s'))", kubename.UserPrefix, kubename.CIServiceAccount)}},
			}},
		},
	}
}

// webhookKubeconfig is what kube-apiserver reads to reach one of our webhooks.
func webhookKubeconfig(dir, url string) ([]byte, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters["gl-k8s-integrator"] = &clientcmdapi.Cluster{Server: url, CertificateAuthority: path.Join(dir, "webhook-ca.crt")}
	c.AuthInfos["kube-apiserver"] = &clientcmdapi.AuthInfo{
		ClientCertificate: path.Join(dir, "apiserver-client.crt"), ClientKey: path.Join(dir, "apiserver-client.key"),
	}
	c.Contexts["webhook"] = &clientcmdapi.Context{Cluster: "gl-k8s-integrator", AuthInfo: "kube-apiserver"}
	c.CurrentContext = "webhook"
	out, err := clientcmd.Write(*c)
	if err != nil {
		return nil, fmt.Errorf("making the kubeconfig of a webhook: %w", err)
	}
	return out, nil
}

// argument is a flag of kube-apiserver, without dashes.
type argument struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (a argument) String() string { return a.Name + "=" + a.Value }

// arguments are the flags that kube-apiserver needs. authorization-config takes the place of authorization-mode.
func arguments(dir string) []argument {
	return []argument{
		{"authentication-token-webhook-config-file", path.Join(dir, "webhook.kubeconfig")},
		{"authentication-token-webhook-version", "v1"},
		{"authorization-config", path.Join(dir, "authorization.yaml")},
	}
}

// mountName names our volume in kube-apiserver's pod.
const mountName = "gl-k8s-integrator"

// extraVolume is an entry of apiServer.extraVolumes. Source: kubeadm.k8s.io/v1beta3 and v1beta4, HostPathMount.
type extraVolume struct {
	Name      string `json:"name"`
	HostPath  string `json:"hostPath"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly"`
	PathType  string `json:"pathType"`
}

func volumeOf(dir string) extraVolume {
	return extraVolume{Name: mountName, HostPath: dir, MountPath: dir, ReadOnly: true, PathType: string(corev1.HostPathDirectory)}
}

// clusterConfiguration is the part of kubeadm's ClusterConfiguration that we need.
type clusterConfiguration struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	APIServer  kubeadmAPIServer `json:"apiServer"`
}

type kubeadmAPIServer struct {
	ExtraArgs    []argument    `json:"extraArgs"`
	ExtraVolumes []extraVolume `json:"extraVolumes"`
}

// rancher is the part of the config.yaml of k3s and RKE2 that we need. "+" adds to what other files say. Source: their
// documentation of config.yaml.d. k3s runs kube-apiserver without a container, RKE2 in a static pod, which needs the mount.
type rancher struct {
	Args   []string `json:"kube-apiserver-arg+"`
	Mounts []string `json:"kube-apiserver-extra-mount+,omitempty"`
}

// podPatch is what a static pod needs, to be read by people: our command adds it.
type podPatch struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Spec       corev1.PodSpec `json:"spec"`
}

// forDistribution returns the one file that says what the distribution needs: its name and content.
func forDistribution(a Answers) (name string, content []byte, err error) {
	args, dir := arguments(a.APIServerDir), a.APIServerDir
	var plain, dashed []string
	for _, x := range args {
		plain, dashed = append(plain, x.String()), append(dashed, "--"+x.String())
	}
	var object any
	switch a.Distribution {
	case Kubeadm:
		name = "kubeadm.yaml"
		object = clusterConfiguration{
			APIVersion: "kubeadm.k8s.io/v1beta4", Kind: "ClusterConfiguration",
			APIServer: kubeadmAPIServer{ExtraArgs: args, ExtraVolumes: []extraVolume{volumeOf(dir)}},
		}
	case K3s:
		name, object = "k3s.yaml", rancher{Args: plain}
	case RKE2:
		name, object = "rke2.yaml", rancher{Args: plain, Mounts: []string{dir + ":" + dir + ":ro"}}
	case StaticPod:
		name = "static-pod.yaml"
		kind := corev1.HostPathDirectory
		object = podPatch{APIVersion: "v1", Kind: "Pod", Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "kube-apiserver", Command: dashed,
				VolumeMounts: []corev1.VolumeMount{{Name: mountName, MountPath: dir, ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{{Name: mountName, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}}}},
		}}
	default:
		return "flags.txt", []byte(strings.Join(dashed, "\n") + "\n"), nil
	}
	content, err = yaml.Marshal(object)
	return name, content, err
}
