//! The whole path: an image from the registry, a pod, containers that communicate, log and end.

use crisp_e2e::{Image, Machine, Result, needs, request};

#[tokio::test(flavor = "multi_thread")]
async fn two_containers_talk_over_localhost() -> Result<()> {
    needs!("docker-registry", "busybox");
    let machine = Machine::start().await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let mut client = machine.client().await?;
    client.pull(&image).await?;
    let sandbox = request::pod(&machine, "talk");
    let pod = client.run_pod(&sandbox).await?;
    let server = "mkdir -p /www && echo hello from the first > /www/index.html && httpd -f -p 8080 -h /www";
    client.launch(&pod, &request::shell("server", &image, server), &sandbox).await?;
    let fetch = "for i in $(seq 50); do wget -q -O - http://127.0.0.1:8080/ 2>/dev/null && exit 0; sleep 0.1; done; exit 1";
    let id = client.launch(&pod, &request::shell("client", &image, fetch), &sandbox).await?;
    let status = client.wait(&id).await?;
    assert_eq!(status.exit_code, 0, "{}", machine.container_log("talk", "client")?);
    assert_eq!(machine.container_log("talk", "client")?, "hello from the first\n");
    machine.close().await
}
