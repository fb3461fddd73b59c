#!/usr/bin/env python3
"""Labels answers in the viewer of a running `assay serve --labels` by keyboard alone, in headless Chromium.

    apt-get install chromium chromium-driver; python -m venv venv && venv/bin/pip install selenium
    venv/bin/python tools/serve/label_shots.py http://127.0.0.1:8000 shots/ [TRACES]

TRACES (JSON lines, such as quickstart's traces.jsonl) gives a question and three answers for a reward that cannot read
the page's example. The file of labels should be new. Fails when a key does not act as the page's help line says, when a label is not kept
over a reload, or when the page logs an error. Takes screenshots in light and dark mode.
"""

import json
import pathlib
import sys
import urllib.request

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from viewer_shots import browser, check, key, quiet

NAME = "Ada"


def status(driver):
    return driver.find_element(By.ID, "status").text


def wait_for(driver, words):
    WebDriverWait(driver, 240).until(lambda d: words in status(d))


def labels(base):
    with urllib.request.urlopen(base + "/v1/labels") as answer:
        return json.load(answer)


def example():
    """The first question of TRACES and three of its answers; None without TRACES."""
    if len(sys.argv) < 4:
        return None
    with open(sys.argv[3]) as lines:
        traces = [json.loads(line) for line in lines]
    texts = {trace["text"]: None for trace in traces if trace["question"] == traces[0]["question"]}
    return {"question": traces[0]["question"], "answers": "\n---\n".join(list(texts)[:3])}


def score(driver, base):
    driver.get(base)
    WebDriverWait(driver, 60).until(lambda d: d.find_element(By.ID, "marking").is_displayed())
    for field, text in (example() or {}).items():
        driver.execute_script("document.getElementById(arguments[0]).value = arguments[1]", field, text)
    key(driver, Keys.CONTROL + Keys.ENTER)
    wait_for(driver, "rewards hidden")


def here(driver):
    box = driver.switch_to.active_element
    return driver.execute_script("return [...arguments[0].children].findIndex((t) => t.classList.contains('here'))", box)


def colours(driver):
    return driver.execute_script("return document.querySelectorAll('.tokens [class*=h1], .error-mark').length")


def by_keyboard(driver, base, out):
    check("the help line is visible", driver.find_element(By.ID, "marking-help").is_displayed())
    check("rewards are hidden at first", colours(driver) == 0 and not driver.find_elements(By.CSS_SELECTOR, ".badge"))
    key(driver, "n")
    check("N goes to the first answer", here(driver) == 0)
    outline = driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    check("the focus is visible", outline != "none")
    key(driver, "lll")
    key(driver, Keys.ARROW_RIGHT + Keys.ARROW_RIGHT + "h")
    check("L, H and arrows move", here(driver) == 4)
    key(driver, "w")
    check("a name is asked for", driver.find_element(By.ID, "who").get_attribute("open") is not None)
    driver.save_screenshot(str(out / "1-name.png"))
    key(driver, NAME + Keys.ENTER)
    wait_for(driver, "token 5")
    check("the mark is shown", len(driver.find_elements(By.CSS_SELECTOR, ".marked")) == 1)
    kept = labels(base)
    check("the mark is kept", kept["data"][0]["first_error"]["token"] == 4 and kept["data"][0]["annotator"] == NAME)
    key(driver, "n")
    key(driver, "c")
    wait_for(driver, "all correct")
    key(driver, "n")
    key(driver, "ll" + Keys.ENTER)
    wait_for(driver, "token 3")
    check("three answers are labelled", labels(base)["total"] == 3)
    driver.save_screenshot(str(out / "2-marked.png"))
    key(driver, "u")
    wait_for(driver, "undone")
    check("U takes the last mark back", labels(base)["total"] == 2)
    key(driver, "p")
    rank = driver.switch_to.active_element.get_attribute("aria-label")
    check("P goes to the answer before", "Answer 2" in rank)
    key(driver, "l" + Keys.ENTER)
    wait_for(driver, "token 2")
    check("a later mark replaces an earlier one", labels(base)["total"] == 2 and labels(base)["data"][0]["verdict"] == "wrong")
    key(driver, "u")
    wait_for(driver, "undone")
    check("U brings the earlier mark back", labels(base)["data"][0]["verdict"] == "correct")
    spoken = driver.find_element(By.CSS_SELECTOR, ".marked").get_attribute("aria-label")
    check("a mark is spoken", "marked as the first wrong token by you" in spoken)
    check("the status is announced", driver.find_element(By.ID, "status").get_attribute("aria-live") == "polite")


def another_person(driver):
    name = driver.find_element(By.ID, "annotator")
    check("the name is kept in the browser", name.get_attribute("value") == NAME)
    name.clear()
    name.send_keys("Bob" + Keys.TAB)
    badges = [badge.text for badge in driver.find_elements(By.CSS_SELECTOR, ".mark-badge")]
    check("others' labels are hidden", badges == ["not marked"] * 3 and not driver.find_elements(By.CSS_SELECTOR, ".marked-other"))
    name.clear()
    name.send_keys(NAME + Keys.TAB)
    driver.execute_script("document.activeElement.blur()")


def after_reload(driver, base, out):
    score(driver, base)
    another_person(driver)
    badges = [badge.text for badge in driver.find_elements(By.CSS_SELECTOR, ".mark-badge")]
    check(f"a reload shows the labels {badges}", sum(text.startswith("you: ") for text in badges) == 2)
    key(driver, "n")
    key(driver, "c")
    wait_for(driver, "all correct")
    check("the name is not asked for again", not driver.find_element(By.ID, "who").is_displayed())
    key(driver, "u")
    wait_for(driver, "undone")
    driver.find_element(By.ID, "blind").send_keys(Keys.SPACE)
    check("rewards can be shown", colours(driver) > 0)
    driver.save_screenshot(str(out / "3-rewards.png"))
    key(driver, Keys.SPACE)


def main():
    base, out = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    driver = browser(1360, 940)
    try:
        score(driver, base)
        by_keyboard(driver, base, out)
        after_reload(driver, base, out)
        quiet(driver)
    finally:
        driver.quit()
    for name, size, theme in [("4-dark", (1360, 940), "dark"), ("5-narrow", (500, 1100), "light")]:
        driver = browser(*size, theme)
        try:
            score(driver, base)
            if name == "5-narrow":
                driver.execute_script("document.getElementById('results').scrollIntoView()")
            key(driver, "n")
            key(driver, "llllw")
            key(driver, NAME + Keys.ENTER)
            wait_for(driver, "token 5")
            key(driver, "l")
            driver.save_screenshot(str(out / f"{name}.png"))
            quiet(driver)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
